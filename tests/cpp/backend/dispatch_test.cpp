// Which table is chosen. A table too many dies of an illegal instruction in kernels_test.cpp; here, one too
// few, and what CHATGLM_ISA does.
#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "backend/cpu/kernels/kernels.h"
#include "chatglm/error.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#define CHATGLM_HAS_FORK 1
#endif

using namespace chatglm;
using namespace chatglm::cpu;

namespace {

std::vector<std::string> runnable() {
    int count = 0;
    const Kernels* const* tables = runnable_kernels(&count);
    std::vector<std::string> names;
    for (int i = 0; i < count; ++i) names.emplace_back(tables[i]->name);
    return names;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
    for (const std::string& known : names) {
        if (known == name) return true;
    }
    return false;
}

}  // namespace

TEST_CASE("tables come best first, and the best is used unless CHATGLM_ISA names another") {
    const std::vector<std::string> order = {"avx512vnni", "avxvnni", "avx2",   "i8mm",
                                            "dotprod",    "neon",    "generic"};
    const std::vector<std::string> found = runnable();
    std::vector<std::string> expected;
    for (const std::string& name : order) {
        if (contains(found, name)) expected.push_back(name);
    }
    CHECK(found == expected);
    const char* wanted = std::getenv("CHATGLM_ISA");
    if (wanted && *wanted && !contains(found, wanted)) {
        CHECK_THROWS_AS(kernels(), InvalidArgument);
    } else {
        CHECK(std::string(kernels().name) == (wanted && *wanted ? wanted : found.front()));
    }
    // What a script that knows the processor expects.
    if (const char* best = std::getenv("CHATGLM_TEST_BEST_ISA")) CHECK(found.front() == best);
}

#ifdef CHATGLM_HAS_FORK

namespace {

// Every kind of instruction of a table: products of bytes for one and for several rows, and of halves.
void use(const Kernels& table) {
    constexpr int kRows = 8, kColumns = 64;
    std::vector<uint8_t> weight(kRows * kColumns * 4);
    std::vector<float> x(kRows * kColumns, 1.0f), y(kRows * kRows);
    std::vector<int8_t> q(x.size());
    std::vector<float> d(x.size() / kBlockSize), s(d.size());
    for (size_t row = 0; row < kRows; ++row) {
        table.quantize_row(x.data() + row * kColumns, kColumns, q.data() + row * kColumns,
                           d.data() + row * kColumns / kBlockSize, s.data() + row * kColumns / kBlockSize);
    }
    for (const DType type : {DType::f16, DType::q4_0, DType::q8_0}) {
        for (const int n_rows : {1, kRows}) {
            MatmulArgs args{};
            args.weight = weight.data();
            args.weight_stride = row_bytes(type, kColumns);
            args.row_end = kRows;
            args.n_cols = kColumns;
            args.x = x.data();
            args.xq = {q.data(), d.data(), s.data(), kColumns};
            args.n_rows = n_rows;
            args.y = y.data();
            args.y_stride = kRows;
            table.matmul(type)(args);
        }
    }
}

// The signal that ends a process that uses the table; 0: none.
int ending(const Kernels& table) {
    const pid_t child = fork();
    if (child == 0) {
        std::signal(SIGILL, SIG_DFL);
        const rlimit no_core{0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        use(table);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return -1;
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("exactly the tables that the processor can run are offered") {
    const std::vector<std::string> found = runnable();
    for (const Kernels* table : {avx512vnni_kernels(), avx2_kernels(), i8mm_kernels(), dotprod_kernels(),
                                 neon_kernels(), generic_kernels()}) {
        if (!table) continue;
        CAPTURE(table->name);
        CHECK(ending(*table) == (contains(found, table->name) ? 0 : SIGILL));
    }
}

#endif
