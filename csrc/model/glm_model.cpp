#include "model/glm_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "chatglm/error.h"
#include "core/half.h"
#include "format/quantize.h"
#include "model/load_config.h"
#include "model/memory_need.h"
#include "model/weight_loader.h"

namespace chatglm {

// Activations of up to `capacity` rows.
struct GlmModel::Workspace {
    int capacity = 0;
    std::vector<Backend::Buffer> buffers;
    float* x = nullptr;         // (n, hidden) residual stream
    float* normed = nullptr;    // (n, hidden)
    float* out = nullptr;       // (n, hidden) a sublayer's output
    float* qkv = nullptr;       // (n, (n_heads + 2 n_kv_heads) * head_dim)
    float* attended = nullptr;  // (n, n_heads * head_dim)
    float* up = nullptr;        // (n, 2 * ffn) or (n, ffn)
    float* act = nullptr;       // (n, ffn)
    float* cos = nullptr;       // (n, rope_dim / 2)
    float* sin = nullptr;       // (n, rope_dim / 2)
    float* logits = nullptr;    // (kLogitRows, vocab)

    // Of LoRA adapters, only once one is used.
    int64_t low_rank_size = 0, delta_size = 0;
    Backend::Buffer low_rank_buffer, delta_buffer;
    float* low_rank = nullptr;  // (n, rank)
    float* delta = nullptr;     // (n, rows of the target)
};

namespace {

// Logits are computed for this many rows at a time: 65024 * 16 floats are 4 MB.
constexpr int kLogitRows = 16;

}  // namespace

GlmModel::GlmModel(const GgufFile& file, Backend& backend)
    : config_(load_config(file)),
      backend_(backend),
      workspace_(new Workspace, [](Workspace* w) { delete w; }) {
    check_repacked_memory(file, memory_state());
    const ModelConfig& c = config_;
    WeightLoader load(file, backend, vectors_, repacked_);
    const int64_t hidden = c.hidden_size, ffn = c.intermediate_size;
    const int64_t q_rows = int64_t{c.num_attention_heads} * c.head_dim;
    const int64_t kv_rows = int64_t{c.num_key_value_heads} * c.head_dim;
    const int64_t up_rows = c.activation == Activation::swiglu ? 2 * ffn : ffn;

    embedding_ = load.matrix("token_embd.weight", c.vocab_size, hidden);
    output_ = load.has("output.weight") ? load.matrix("output.weight", c.vocab_size, hidden) : embedding_;
    output_norm_ = load.norm("output_norm", hidden, c.norm);
    layers_.resize(static_cast<size_t>(c.num_hidden_layers));
    for (int i = 0; i < c.num_hidden_layers; ++i) {
        LayerWeights& layer = layers_[static_cast<size_t>(i)];
        const std::string block = "blk." + std::to_string(i) + ".";
        layer.attention_norm = load.norm(block + "attn_norm", hidden, c.norm);
        layer.ffn_norm = load.norm(block + "ffn_norm", hidden, c.norm);
        if (c.post_norms) {
            layer.post_attention_norm = load.norm(block + "post_attention_norm", hidden, c.norm);
            layer.post_ffn_norm = load.norm(block + "post_ffw_norm", hidden, c.norm);
        }
        if (load.has(block + "attn_qkv.weight")) {
            layer.qkv = load.matrix(block + "attn_qkv.weight", q_rows + 2 * kv_rows, hidden);
            layer.qkv_bias = load.optional_vector(block + "attn_qkv.bias", q_rows + 2 * kv_rows);
        } else {
            layer.q = load.matrix(block + "attn_q.weight", q_rows, hidden);
            layer.k = load.matrix(block + "attn_k.weight", kv_rows, hidden);
            layer.v = load.matrix(block + "attn_v.weight", kv_rows, hidden);
            layer.q_bias = load.optional_vector(block + "attn_q.bias", q_rows);
            layer.k_bias = load.optional_vector(block + "attn_k.bias", kv_rows);
            layer.v_bias = load.optional_vector(block + "attn_v.bias", kv_rows);
        }
        layer.attention_output = load.matrix(block + "attn_output.weight", hidden, q_rows);
        layer.ffn_up = load.matrix(block + "ffn_up.weight", up_rows, hidden);
        layer.ffn_down = load.matrix(block + "ffn_down.weight", hidden, ffn);
        layer.attention_output_bias = load.optional_vector(block + "attn_output.bias", hidden);
        layer.ffn_up_bias = load.optional_vector(block + "ffn_up.bias", up_rows);
        layer.ffn_down_bias = load.optional_vector(block + "ffn_down.bias", hidden);
        if (c.prefix_length > 0) {
            layer.prefix_k = load.rows(block + "attn_prefix_k.weight", c.prefix_length, kv_rows);
            layer.prefix_v = load.rows(block + "attn_prefix_v.weight", c.prefix_length, kv_rows);
        }
    }
}

KvLayout GlmModel::kv_layout(DType type) const {
    KvLayout layout;
    layout.type = type;
    layout.n_layers = config_.num_hidden_layers;
    layout.n_kv_heads = config_.num_key_value_heads;
    layout.head_dim = config_.head_dim;
    return layout;
}

KvCache::SequenceId GlmModel::create_sequence(KvCache& cache) const {
    const auto id = cache.create();
    if (config_.prefix_length == 0) return id;
    try {
        cache.extend(id, config_.prefix_length);
    } catch (...) {
        cache.release(id);
        throw;
    }
    const SequenceRows sequence{0, config_.prefix_length, cache.pages(id)};
    std::vector<int32_t> slots(static_cast<size_t>(config_.prefix_length));
    std::iota(slots.begin(), slots.end(), 0);
    const AttentionBatch rows{{&sequence, 1}, slots, {}};
    for (int i = 0; i < config_.num_hidden_layers; ++i) {
        const LayerWeights& layer = layers_[static_cast<size_t>(i)];
        backend_.store_kv(cache.layout(), i, rows, layer.prefix_k, layer.prefix_v,
                          int64_t{config_.num_key_value_heads} * config_.head_dim);
    }
    return id;
}

void GlmModel::reserve(int n_rows) const {
    Workspace& w = *workspace_;
    if (n_rows <= w.capacity) return;
    const ModelConfig& c = config_;
    w.capacity = 0;
    w.buffers.clear();
    const auto floats = [&](int64_t rows, int64_t cols) {
        w.buffers.push_back(backend_.allocate(static_cast<size_t>(rows * cols) * sizeof(float)));
        return reinterpret_cast<float*>(w.buffers.back().get());
    };
    const int64_t q_cols = int64_t{c.num_attention_heads} * c.head_dim;
    const int64_t kv_cols = int64_t{c.num_key_value_heads} * c.head_dim;
    w.x = floats(n_rows, c.hidden_size);
    w.normed = floats(n_rows, c.hidden_size);
    w.out = floats(n_rows, c.hidden_size);
    w.qkv = floats(n_rows, q_cols + 2 * kv_cols);
    w.attended = floats(n_rows, q_cols);
    w.up = floats(n_rows, (c.activation == Activation::swiglu ? 2 : 1) * int64_t{c.intermediate_size});
    w.act = floats(n_rows, c.intermediate_size);
    w.cos = floats(n_rows, c.rope_dim / 2);
    w.sin = floats(n_rows, c.rope_dim / 2);
    w.logits = floats(kLogitRows, c.vocab_size);
    w.capacity = n_rows;
}

namespace {

// The batch as the backend wants it, and its slots in the cache. Undoes the cache's growth unless kept.
class CacheRows {
  public:
    CacheRows(const Batch& batch, KvCache& cache, int prefix_length) : cache_(cache) {
        try {
            for (int begin = 0; begin < batch.size();) {
                const auto id = batch.sequences[static_cast<size_t>(begin)];
                int end = begin;
                while (end < batch.size() && batch.sequences[static_cast<size_t>(end)] == id) ++end;
                for (const Growth& g : grown_) {
                    if (g.id == id)
                        throw InvalidArgument("Rows of one sequence must be adjacent in a batch.");
                }
                const int length = cache.length(id);
                cache.extend(id, end - begin);
                grown_.push_back({id, length});
                for (int row = begin; row < end; ++row) {
                    slots_.push_back(length + row - begin);
                    n_visible_.push_back(
                        std::max(length + row - begin + 1,
                                 prefix_length + batch.sees_at_least[static_cast<size_t>(row)]));
                }
                sequences_.push_back({begin, end, {}});
                for (int row = begin; row < end; ++row) {
                    if (n_visible_[static_cast<size_t>(row)] > cache.length(id)) {
                        throw InvalidArgument("The context before <sop> must be computed in one batch.");
                    }
                }
                begin = end;
            }
        } catch (...) {
            undo();
            throw;
        }
        for (size_t i = 0; i < grown_.size(); ++i) sequences_[i].pages = cache.pages(grown_[i].id);
    }
    ~CacheRows() {
        if (!kept_) undo();
    }
    void keep() { kept_ = true; }
    AttentionBatch view() const { return {sequences_, slots_, n_visible_}; }

  private:
    struct Growth {
        KvCache::SequenceId id;
        int length;
    };
    void undo() {
        for (const Growth& g : grown_) cache_.truncate(g.id, g.length);
    }

    KvCache& cache_;
    std::vector<Growth> grown_;
    std::vector<SequenceRows> sequences_;
    std::vector<int32_t> slots_, n_visible_;
    bool kept_ = false;
};

// cos and sin (n_rows, rope_dim / 2) of position * scale * theta^(-2i / dim), rounded to f32 at the points
// where the original PyTorch code rounds: the inverse frequency and the angle. With glm_2d, dim is rope_dim /
// 2 and the second half of the pairs turns by the block position.
void rope_angles(const Batch& batch, const ModelConfig& c, float* cos, float* sin) {
    const int n_pairs = c.rope_dim / 2;
    const bool two = c.positions == PositionKind::glm_2d;
    const int pairs_of_one = two ? n_pairs / 2 : n_pairs;
    for (int i = 0; i < n_pairs; ++i) {
        const std::vector<int32_t>& positions = i < pairs_of_one ? batch.positions : batch.block_positions;
        const auto exponent = static_cast<float>(i % pairs_of_one) / static_cast<float>(pairs_of_one);
        auto frequency = static_cast<float>(1.0 / static_cast<double>(static_cast<float>(std::pow(
                                                      static_cast<double>(c.rope_theta), exponent))));
        if (c.rope_frequencies_f16) frequency = half_to_float(float_to_half(frequency));
        for (size_t row = 0; row < positions.size(); ++row) {
            const float position = static_cast<float>(positions[row]) * c.rope_position_scale;
            const auto angle = static_cast<double>(position * frequency);
            cos[row * static_cast<size_t>(n_pairs) + static_cast<size_t>(i)] =
                static_cast<float>(std::cos(angle));
            sin[row * static_cast<size_t>(n_pairs) + static_cast<size_t>(i)] =
                static_cast<float>(std::sin(angle));
        }
    }
}

}  // namespace

void GlmModel::project_qkv(const LayerWeights& layer, const float* x, int n_rows, float* qkv) const {
    const int64_t stride =
        int64_t{config_.num_attention_heads + 2 * config_.num_key_value_heads} * config_.head_dim;
    if (layer.qkv) {
        backend_.linear(x, n_rows, layer.qkv, layer.qkv_bias, qkv, stride);
        return;
    }
    backend_.linear(x, n_rows, layer.q, layer.q_bias, qkv, stride);
    backend_.linear(x, n_rows, layer.k, layer.k_bias, qkv + layer.q.rows, stride);
    backend_.linear(x, n_rows, layer.v, layer.v_bias, qkv + layer.q.rows + layer.k.rows, stride);
}

void GlmModel::reserve_low_rank(int n_rows, const LoraSet& loras) const {
    Workspace& w = *workspace_;
    const ModelConfig& c = config_;
    int64_t rank = 0;
    for (const ActiveLora& lora : loras) rank = std::max(rank, lora.adapter->max_rank());
    if (rank == 0) return;
    const int64_t qkv_rows = int64_t{c.num_attention_heads + 2 * c.num_key_value_heads} * c.head_dim;
    const int64_t rows = std::max({qkv_rows, int64_t{c.hidden_size}, 2 * int64_t{c.intermediate_size}});
    const auto grow = [&](int64_t needed, int64_t& size, Backend::Buffer& buffer, float*& p) {
        if (needed <= size) return;
        buffer.reset();
        size = 0;
        buffer = backend_.allocate(static_cast<size_t>(needed) * sizeof(float));
        p = reinterpret_cast<float*>(buffer.get());
        size = needed;
    };
    grow(std::max(n_rows, kLogitRows) * rank, w.low_rank_size, w.low_rank_buffer, w.low_rank);
    grow(std::max(n_rows * rows, int64_t{kLogitRows} * c.vocab_size), w.delta_size, w.delta_buffer, w.delta);
}

// y (n_rows, rows of b), rows y_stride apart, += scale * b (a x)
void GlmModel::add_low_rank(const LoraAdapter::Factor& factor, float scale, const float* x, int n_rows,
                            float* y, int64_t y_stride) const {
    Workspace& w = *workspace_;
    const int64_t rows = factor.b.rows;
    backend_.linear(x, n_rows, factor.a, nullptr, w.low_rank, factor.a.rows);
    backend_.linear(w.low_rank, n_rows, factor.b, nullptr, w.delta, rows);
    for (int row = 0; row < n_rows; ++row) {
        backend_.add(w.delta + row * rows, scale * factor.scale, y + row * y_stride + factor.row_offset,
                     rows);
    }
}

void GlmModel::forward(const Batch& batch, KvCache& cache, float* out, const LoraSet& loras,
                       const std::function<bool()>& interrupted, Output output) const {
    const ModelConfig& c = config_;
    const int n = batch.size();
    if (n == 0) return;
    for (const int32_t token : batch.tokens) {
        if (token < 0 || token >= c.vocab_size) {
            throw InvalidArgument("Token id " + std::to_string(token) + " is outside the vocabulary of " +
                                  std::to_string(c.vocab_size) + ".");
        }
    }
    reserve(n);
    reserve_low_rank(n, loras);
    Workspace& w = *workspace_;
    const int hidden = c.hidden_size, ffn = c.intermediate_size;
    const int n_heads = c.num_attention_heads, n_kv_heads = c.num_key_value_heads, d = c.head_dim;
    const int64_t qkv_stride = int64_t{n_heads + 2 * n_kv_heads} * d;
    const int64_t k_offset = int64_t{n_heads} * d, v_offset = k_offset + int64_t{n_kv_heads} * d;

    CacheRows rows(batch, cache, c.prefix_length);
    std::vector<float> cos(static_cast<size_t>(n) * static_cast<size_t>(c.rope_dim / 2)), sin(cos.size());
    rope_angles(batch, c, cos.data(), sin.data());
    backend_.upload(cos.data(), w.cos, cos.size() * sizeof(float));
    backend_.upload(sin.data(), w.sin, sin.size() * sizeof(float));
    const RopeAngles angles{w.cos, w.sin, c.rope_dim / 2};

    const auto add_residual = [&] {
        if (c.residual_scale == 0.0f) {
            backend_.add(w.out, 1.0f, w.x, int64_t{n} * hidden);
        } else {
            backend_.add(w.normed, c.residual_scale, w.out, int64_t{n} * hidden);
            std::swap(w.x, w.out);
        }
    };
    const auto adapt = [&](int layer, LoraTarget target, const float* x, float* y, int64_t y_stride) {
        for (const ActiveLora& lora : loras) {
            for (const LoraAdapter::Factor& factor : lora.adapter->factors(layer, target)) {
                add_low_rank(factor, lora.scale, x, n, y, y_stride);
            }
        }
    };
    backend_.embed(embedding_, batch.tokens, w.x);
    for (int i = 0; i < c.num_hidden_layers; ++i) {
        const LayerWeights& layer = layers_[static_cast<size_t>(i)];
        if (interrupted && interrupted()) throw Interrupted();

        backend_.norm(c.norm, w.x, n, hidden, layer.attention_norm, c.norm_eps, w.normed);
        project_qkv(layer, w.normed, n, w.qkv);
        adapt(i, LoraTarget::qkv, w.normed, w.qkv, qkv_stride);
        backend_.rope(w.qkv, n, qkv_stride, n_heads + n_kv_heads, d,
                      angles);  // q and k heads lie side by side
        backend_.store_kv(cache.layout(), i, rows.view(), w.qkv + k_offset, w.qkv + v_offset, qkv_stride);
        backend_.attention(cache.layout(), i, rows.view(), w.qkv, qkv_stride, n_heads, w.attended);
        backend_.linear(w.attended, n, layer.attention_output, layer.attention_output_bias, w.out, hidden);
        adapt(i, LoraTarget::attention_output, w.attended, w.out, hidden);
        if (layer.post_attention_norm) {
            backend_.norm(c.norm, w.out, n, hidden, layer.post_attention_norm, c.norm_eps, w.out);
        }
        add_residual();

        backend_.norm(c.norm, w.x, n, hidden, layer.ffn_norm, c.norm_eps, w.normed);
        backend_.linear(w.normed, n, layer.ffn_up, layer.ffn_up_bias, w.up, layer.ffn_up.rows);
        adapt(i, LoraTarget::ffn_up, w.normed, w.up, layer.ffn_up.rows);
        const float* activated = w.up;
        if (c.activation == Activation::swiglu) {
            backend_.swiglu(w.up, n, ffn, w.act);
            activated = w.act;
        } else {
            backend_.gelu(w.up, n, ffn);
        }
        backend_.linear(activated, n, layer.ffn_down, layer.ffn_down_bias, w.out, hidden);
        adapt(i, LoraTarget::ffn_down, activated, w.out, hidden);
        if (layer.post_ffn_norm) {
            backend_.norm(c.norm, w.out, n, hidden, layer.post_ffn_norm, c.norm_eps, w.out);
        }
        add_residual();
    }

    std::vector<int32_t> wanted;
    for (int row = 0; row < n; ++row) {
        if (batch.wants_logits[static_cast<size_t>(row)]) wanted.push_back(row);
    }
    for (size_t begin = 0; begin < wanted.size(); begin += kLogitRows) {
        const auto part = std::span<const int32_t>(wanted).subspan(
            begin, std::min<size_t>(kLogitRows, wanted.size() - begin));
        const int m = static_cast<int>(part.size());
        backend_.gather(w.x, part, hidden, w.normed);
        backend_.norm(c.norm, w.normed, m, hidden, output_norm_, c.norm_eps, w.normed);
        if (output == Output::hidden_states) {
            const auto width = static_cast<size_t>(hidden);
            backend_.download(w.normed, out + begin * width, part.size() * width * sizeof(float));
            continue;
        }
        backend_.linear(w.normed, m, output_, nullptr, w.logits, c.vocab_size);
        for (const ActiveLora& lora : loras) {
            for (const LoraAdapter::Factor& factor : lora.adapter->output_factors()) {
                add_low_rank(factor, lora.scale, w.normed, m, w.logits, c.vocab_size);
            }
        }
        const size_t count = part.size() * static_cast<size_t>(c.vocab_size);
        backend_.download(w.logits, out + begin * static_cast<size_t>(c.vocab_size), count * sizeof(float));
    }
    rows.keep();
}

}  // namespace chatglm
