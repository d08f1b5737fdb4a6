// A number that tells whether bytes have changed. It finds damage and mistakes; whoever wants to can make
// other bytes with the same number.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace chatglm {

// The same for the same bytes, however they are cut. Takes eight bytes at a time, so that it keeps up with
// files. Each step is a bijection of the state, so one changed word never goes unnoticed.
class Checksum {
  public:
    void add(std::span<const uint8_t> bytes) {
        n_bytes_ += bytes.size();
        if (n_pending_ > 0) bytes = bytes.subspan(fill(bytes));
        if (n_pending_ > 0) return;
        for (; bytes.size() >= kWord; bytes = bytes.subspan(kWord)) mix(bytes.data());
        fill(bytes);
    }
    void add(const void* data, size_t n) { add({static_cast<const uint8_t*>(data), n}); }
    // With its length, so that two texts in a row cannot be told apart otherwise.
    void add_text(const std::string& text) {
        const uint64_t n = text.size();
        add(&n, sizeof n);
        add(text.data(), text.size());
    }

    uint64_t value() const {
        Checksum end = *this;
        constexpr std::array<uint8_t, kWord> zeros{};
        end.fill(std::span(zeros).first((kWord - n_pending_) % kWord));
        end.mix(&n_bytes_);
        return end.state_;
    }

  private:
    static constexpr size_t kWord = 8;

    // Takes what completes a word; returns how much.
    size_t fill(std::span<const uint8_t> bytes) {
        const size_t n = std::min(kWord - n_pending_, bytes.size());
        std::copy_n(bytes.begin(), n, pending_.begin() + static_cast<std::ptrdiff_t>(n_pending_));
        n_pending_ += n;
        if (n_pending_ == kWord) {
            mix(pending_.data());
            n_pending_ = 0;
        }
        return n;
    }
    void mix(const void* eight_bytes) {
        uint64_t word;
        std::memcpy(&word, eight_bytes, sizeof word);
        state_ = (state_ ^ word) * 0x9E3779B97F4A7C15u;  // odd: 2^64 divided by the golden ratio
        state_ ^= state_ >> 32;
    }

    uint64_t state_ = 0;
    uint64_t n_bytes_ = 0;
    std::array<uint8_t, kWord> pending_{};
    size_t n_pending_ = 0;
};

}  // namespace chatglm
