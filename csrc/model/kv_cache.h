// Keys and values of past tokens, in pages of 64 positions that sequences share by reference.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace chatglm {

// Types that a cache can have, by their names: "f16", "q8_0", "f32".
inline constexpr DType kCacheTypes[] = {DType::f16, DType::q8_0, DType::f32};

// Throws InvalidArgument, naming the types there are.
DType cache_type(const std::string& name);

class KvCache {
  public:
    using SequenceId = int32_t;

    KvCache(Backend& backend, const KvLayout& layout) : backend_(backend), layout_(layout) {}

    const KvLayout& layout() const { return layout_; }

    SequenceId create();
    void release(SequenceId sequence);

    // A new sequence that shares the first `length` slots of `sequence`: whole pages by reference, a last
    // partly used page as a copy. `length` must not exceed the sequence's own.
    SequenceId fork(SequenceId sequence, int length);

    // The same from pages by their numbers, of which `length` slots are used.
    SequenceId share(std::span<const int> pages, int length);

    int length(SequenceId sequence) const;

    // Forgets the slots from `length` on; their pages come back.
    void truncate(SequenceId sequence, int length);

    // Makes room for `count` more slots and counts them as used. Pages that other sequences share are copied
    // before they would be written. Throws OutOfMemory, and then nothing has changed.
    void extend(SequenceId sequence, int count);

    // Page of every 64 slots of the sequence, valid until the sequence changes.
    std::span<uint8_t* const> pages(SequenceId sequence) const;

    // Numbers of the same pages.
    std::span<const int> page_ids(SequenceId sequence) const;

    // Keeps a page, once, beyond the life of its sequences, until it is dropped. Its used slots must not
    // change.
    void keep(int page);
    void drop(int page);
    // Whether no sequence uses a page that is kept.
    bool idle(int page) const;

    // Gives the memory of unused pages back while more than `n_pages` are allocated.
    void shrink(int64_t n_pages);

    // A page that several share counts once.
    int used_pages() const { return used_pages_; }
    int idle_pages() const { return idle_pages_; }  // of these, kept ones that no sequence uses
    int64_t allocated_bytes() const { return n_allocated_ * static_cast<int64_t>(layout_.page_bytes()); }

  private:
    struct Page {
        Backend::Buffer memory;
        int references = 0;
        bool kept = false;
    };
    struct Sequence {
        int length = 0;
        std::vector<int> page_ids;
        std::vector<uint8_t*> page_pointers;
    };

    const Sequence& find(SequenceId sequence) const;
    Sequence& find(SequenceId sequence);
    int take_page();
    void add_reference(int page);
    void give_back(int page);
    void pop_page(Sequence& sequence);

    Backend& backend_;
    KvLayout layout_;
    std::vector<Page> pages_;
    std::vector<int> free_pages_, empty_pages_;  // with and without memory
    int used_pages_ = 0, idle_pages_ = 0;
    int64_t n_allocated_ = 0;
    std::map<SequenceId, Sequence> sequences_;
    SequenceId next_id_ = 0;
};

}  // namespace chatglm
