#include "core/arm_features.h"

#if defined(__aarch64__) || defined(_M_ARM64)
#if defined(__APPLE__)
#include <sys/sysctl.h>

#include <cstddef>
#elif defined(_WIN32)
#include <windows.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace chatglm {
namespace {

struct Features {
    bool dotprod = false, i8mm = false;
};

#if !defined(__aarch64__) && !defined(_M_ARM64)

Features detect() {
    return {};
}

#elif defined(__APPLE__)

// `unknown` where the system has no such name.
bool is_set(const char* name, bool unknown) {
    int value = 0;
    std::size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value != 0 : unknown;
}

Features detect() {
    // macOS 11 has names for neither; it runs on no ARM processor older than M1, which has the first.
    return {is_set("hw.optional.arm.FEAT_DotProd", true), is_set("hw.optional.arm.FEAT_I8MM", false)};
}

#elif defined(_WIN32)

// By number, as older SDKs have no name for the second; a system that does not know it says no.
Features detect() {
    constexpr DWORD kDotProduct = 43;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
    constexpr DWORD kI8mm = 66;        // PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE
    return {IsProcessorFeaturePresent(kDotProduct) != 0, IsProcessorFeaturePresent(kI8mm) != 0};
}

#elif defined(__linux__)

Features detect() {
    constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP
    constexpr unsigned long kI8mm = 1ul << 13;     // HWCAP2_I8MM
    return {(getauxval(AT_HWCAP) & kAsimdDp) != 0, (getauxval(AT_HWCAP2) & kI8mm) != 0};
}

#else

Features detect() {
    return {};
}

#endif

}  // namespace

bool has_dotprod() {
    return detect().dotprod;
}

bool has_i8mm() {
    const Features features = detect();
    return features.dotprod && features.i8mm;
}

}  // namespace chatglm
