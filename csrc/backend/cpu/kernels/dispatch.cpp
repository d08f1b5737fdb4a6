#include <cstdlib>
#include <string>
#include <string_view>

#include "backend/cpu/kernels/kernels.h"
#include "chatglm/error.h"
#include "core/arm_features.h"

#if defined(__x86_64__) || (defined(_M_X64) && !defined(_M_ARM64EC))
#define CHATGLM_X86_64 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace chatglm::cpu {
namespace {

#ifdef CHATGLM_X86_64

struct CpuidResult {
    uint32_t eax, ebx, ecx, edx;
};

CpuidResult cpuid(uint32_t leaf, uint32_t part = 0) {
    CpuidResult r{};
#if defined(_MSC_VER)
    int regs[4];
    __cpuid(regs, 0);
    if (static_cast<uint32_t>(regs[0]) < leaf) return r;
    __cpuidex(regs, static_cast<int>(leaf), static_cast<int>(part));
    r = {static_cast<uint32_t>(regs[0]), static_cast<uint32_t>(regs[1]), static_cast<uint32_t>(regs[2]),
         static_cast<uint32_t>(regs[3])};
#else
    __get_cpuid_count(leaf, part, &r.eax, &r.ebx, &r.ecx, &r.edx);  // leaves zeros when there is no such leaf
#endif
    return r;
}

// Which register files the operating system saves; only to be asked when OSXSAVE is set.
uint64_t xgetbv() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t eax, edx;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return uint64_t{edx} << 32 | eax;
#endif
}

bool has_avx2() {
    constexpr uint32_t kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28,
                       kF16c = 1u << 29;  // leaf 1, ecx
    constexpr uint32_t kAvx2 = 1u << 5;   // leaf 7, ebx
    constexpr uint64_t kXmmAndYmm = 6;
    constexpr uint32_t kNeeded = kFma | kOsXsave | kAvx | kF16c;
    return (cpuid(1).ecx & kNeeded) == kNeeded && (xgetbv() & kXmmAndYmm) == kXmmAndYmm &&
           (cpuid(7).ebx & kAvx2) != 0;
}

bool has_avxvnni() {
    constexpr uint32_t kAvxVnni = 1u << 4;  // leaf 7, part 1, eax; leaf 7, part 0, eax is the last part
    return has_avx2() && cpuid(7).eax >= 1 && (cpuid(7, 1).eax & kAvxVnni) != 0;
}

bool has_avx512vnni() {
    constexpr uint32_t kF = 1u << 16, kBw = 1u << 30, kVl = 1u << 31;  // leaf 7, ebx
    constexpr uint32_t kVnni = 1u << 11;                               // leaf 7, ecx
    constexpr uint32_t kNeeded = kF | kBw | kVl;
    constexpr uint64_t kMasksAndZmm = 7u << 5;  // mask registers, upper halves of zmm0-15, zmm16-31
    if (!has_avx2() || (xgetbv() & kMasksAndZmm) != kMasksAndZmm) return false;
    const CpuidResult leaf = cpuid(7);
    return (leaf.ebx & kNeeded) == kNeeded && (leaf.ecx & kVnni) != 0;
}

#else

bool has_avx2() {
    return false;
}
bool has_avxvnni() {
    return false;
}
bool has_avx512vnni() {
    return false;
}

#endif

struct Runnable {
    const Kernels* tables[7];
    int count = 0;

    Runnable() : tables{} {
        if (const Kernels* avx512 = avx512vnni_kernels(); avx512 && has_avx512vnni()) {
            tables[count++] = avx512;
        }
        if (const Kernels* avxvnni = avxvnni_kernels(); avxvnni && has_avxvnni()) tables[count++] = avxvnni;
        if (const Kernels* avx2 = avx2_kernels(); avx2 && has_avx2()) tables[count++] = avx2;
        if (const Kernels* i8mm = i8mm_kernels(); i8mm && has_i8mm()) tables[count++] = i8mm;
        if (const Kernels* dotprod = dotprod_kernels(); dotprod && has_dotprod()) tables[count++] = dotprod;
        if (const Kernels* neon = neon_kernels()) tables[count++] = neon;  // in every 64-bit ARM processor
        tables[count++] = generic_kernels();
    }
};

const Runnable& runnable() {
    static const Runnable found;
    return found;
}

const Kernels& choose() {
    const Runnable& found = runnable();
    const char* wanted = std::getenv("CHATGLM_ISA");
    if (!wanted || !*wanted) return *found.tables[0];
    std::string names;
    for (int i = 0; i < found.count; ++i) {
        if (std::string_view(wanted) == found.tables[i]->name) return *found.tables[i];
        names += (i ? ", " : "") + std::string(found.tables[i]->name);
    }
    throw InvalidArgument(
        "The environment variable CHATGLM_ISA is '" + std::string(wanted) +
        "', which this machine cannot run or this build does not have. Unset it or set it to one of: " +
        names + ".");
}

}  // namespace

const Kernels* const* runnable_kernels(int* count) {
    *count = runnable().count;
    return runnable().tables;
}

const Kernels& kernels() {
    static const Kernels& chosen = choose();
    return chosen;
}

}  // namespace chatglm::cpu
