// What a model is: sizes and the choices in which the members of the family differ.
#pragma once

#include <cstdint>
#include <string>

namespace chatglm {

enum class NormKind { rms, layer };
enum class Activation { swiglu, gelu };

// How tokens are numbered and what they see.
enum class PositionKind {
    causal,  // positions 0, 1, 2, ...; each token sees itself and those before it
    // ChatGLM-6B: the context before <sop> is numbered 0, 1, ... and sees all of itself; from <sop> on,
    // tokens stand at the position of [gMASK] with a second number 1, 2, ... that counts the reply, and see
    // what is before them.
    glm_2d,
};

struct ModelConfig {
    std::string architecture;  // "chatglm", "glm4"
    std::string name;
    std::string dtype;  // type of most weights in the file, for example "q4_0"

    int vocab_size = 0;  // rows of the embedding, padding included
    int hidden_size = 0;
    int num_hidden_layers = 0;
    int num_attention_heads = 0;
    int num_key_value_heads = 0;
    int head_dim = 0;
    int intermediate_size = 0;
    int max_length = 0;  // positions that the model was made for

    NormKind norm = NormKind::rms;
    float norm_eps = 1e-5f;
    Activation activation = Activation::swiglu;
    // 0: x + sublayer(norm(x)). Else norm(x) * residual_scale + sublayer(norm(x)) (ChatGLM-6B).
    float residual_scale = 0.0f;
    bool post_norms = false;  // GLM-4-0414: a norm on each sublayer's output, before the residual sum

    PositionKind positions = PositionKind::causal;
    int gmask_token_id = -1;  // glm_2d only
    int sop_token_id = -1;    // glm_2d only
    int prefix_length = 0;    // P-Tuning: positions of learnt keys and values before every sequence

    // Leading dimensions of each head that are rotated, in pairs (2i, 2i + 1). With glm_2d the first half of
    // them turns by the first number of a token, the second half by the second one.
    int rope_dim = 0;
    float rope_theta = 10000.0f;        // base, rope_ratio included
    bool rope_frequencies_f16 = false;  // ChatGLM-6B was trained with frequencies rounded to f16
    float rope_position_scale = 1.0f;   // positions are multiplied by this (ChatGLM2-6B-32k: 1 / rope_ratio)

    int64_t file_bytes = 0;
    int64_t n_parameters = 0;
};

}  // namespace chatglm
