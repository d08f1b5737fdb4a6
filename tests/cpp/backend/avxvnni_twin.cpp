// The kernels for AVX-VNNI, with the same instruction in the encoding of AVX-512: for avxvnni_test.cpp, on
// processors that have the one and not the other. Compiled with the flags of AVX-512.
#define CHATGLM_AVXVNNI_TWIN 1
#include "backend/cpu/kernels/avxvnni.cpp"
