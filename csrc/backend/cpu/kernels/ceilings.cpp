#include "backend/cpu/kernels/ceilings.h"

#include <string_view>

#include "backend/cpu/kernels/kernels.h"

namespace chatglm::cpu {

const Ceilings& ceilings() {
    const Ceilings* const all[] = {avx512vnni_ceilings(), avxvnni_ceilings(), avx2_ceilings(),
                                   i8mm_ceilings(),       dotprod_ceilings(), neon_ceilings(),
                                   generic_ceilings()};
    int count = 0;
    const Kernels* const* tables = runnable_kernels(&count);
    int i = 0;
    while (tables[i] != &kernels()) ++i;
    for (; i < count; ++i) {
        for (const Ceilings* candidate : all) {
            if (candidate && std::string_view(candidate->name) == tables[i]->name) return *candidate;
        }
    }
    return *generic_ceilings();
}

}  // namespace chatglm::cpu
