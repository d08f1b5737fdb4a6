// What a 64-bit ARM processor and its operating system offer beyond NEON; on other processors, nothing.
#pragma once

namespace chatglm {

bool has_dotprod();  // FEAT_DotProd: SDOT
bool has_i8mm();     // FEAT_I8MM: SMMLA; with SDOT, which i8mm.cpp uses too

}  // namespace chatglm
