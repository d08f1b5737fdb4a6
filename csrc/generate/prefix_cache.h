// What earlier replies left in the cache, found again by its tokens.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "model/kv_cache.h"

namespace chatglm {

// A tree of pages: from the root down, the tokens of the pages spell the beginning of a sequence. Pages are
// whole, but for leaves, which may be partly used. Keys and values depend on nothing but the tokens up to
// them and the adapters, so any later sequence that begins alike can use them.
class PrefixCache {
  public:
    // What besides tokens decides the content of a page (the adapters in use), compared by its address and
    // kept alive with its pages.
    using Origin = std::shared_ptr<const void>;

    // `n_prefix` slots at the start of every sequence hold the model's learnt prefix.
    PrefixCache(KvCache& cache, int n_prefix) : cache_(cache), n_prefix_(n_prefix) {}
    ~PrefixCache() { clear(); }
    PrefixCache(const PrefixCache&) = delete;
    PrefixCache& operator=(const PrefixCache&) = delete;

    // The longest known beginning of `ids`: its pages, for KvCache::share with n_slots, and how many of `ids`
    // they hold, often fewer than the last page does.
    struct Match {
        std::vector<int> pages;
        int n_slots = 0;
        int n_tokens = 0;
    };
    Match find(std::span<const int32_t> ids, const Origin& origin);

    // Keeps the pages of `sequence`, which holds `ids` and must not grow any more.
    void insert(KvCache::SequenceId sequence, std::span<const int32_t> ids, const Origin& origin);

    // Gives back the page that went unused for the longest time and that no sequence needs. False when there
    // is none.
    bool evict_one();
    void clear();

    int pages() const { return static_cast<int>(recent_.size()); }

  private:
    struct Node;
    using Children = std::map<std::vector<int32_t>, std::unique_ptr<Node>>;
    struct Node {
        Node* parent = nullptr;
        Children children;
        Children::iterator self;  // in the parent's children
        int page = -1;
        std::list<Node*>::iterator recent;
    };
    struct Root {
        Origin origin;
        Node node;
    };

    std::vector<int32_t> key_of(std::span<const int32_t> ids, int page, int n_slots) const;
    void touch(Node* node);
    void remove(Node* node);

    KvCache& cache_;
    int n_prefix_;
    std::map<const void*, Root> roots_;
    // The most recently used first, a node before its children: so the last one is always a leaf.
    std::list<Node*> recent_;
};

}  // namespace chatglm
