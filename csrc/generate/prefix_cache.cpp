#include "generate/prefix_cache.h"

#include <algorithm>
#include <utility>

namespace chatglm {
namespace {

using Key = std::vector<int32_t>;

size_t common_length(const Key& a, const Key& b) {
    const size_t n = std::min(a.size(), b.size());
    return static_cast<size_t>(
        std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin()).first - a.begin());
}

bool begins_with(const Key& key, const Key& beginning) {
    return common_length(key, beginning) == beginning.size();
}

}  // namespace

// Ids of the slots of one page of a sequence with `n_slots`; the learnt prefix is no token.
Key PrefixCache::key_of(std::span<const int32_t> ids, int page, int n_slots) const {
    const int size = cache_.layout().page_size;
    Key key;
    for (int slot = page * size; slot < std::min(n_slots, (page + 1) * size); ++slot) {
        key.push_back(slot < n_prefix_ ? -1 : ids[static_cast<size_t>(slot - n_prefix_)]);
    }
    return key;
}

PrefixCache::Match PrefixCache::find(std::span<const int32_t> ids, const Origin& origin) {
    Match match;
    const auto root = roots_.find(origin.get());
    if (root == roots_.end()) return match;
    Node* node = &root->second.node;
    const int n_slots = n_prefix_ + static_cast<int>(ids.size());
    const auto page_size = static_cast<size_t>(cache_.layout().page_size);
    for (int page = 0;; ++page) {
        const Key key = key_of(ids, page, n_slots);
        if (key.empty()) break;
        // Of all keys in order, one of the two beside `key` has the most in common with it.
        const auto after = node->children.lower_bound(key);
        auto best = node->children.end();
        size_t common = 0;
        const auto consider = [&](Children::iterator child) {
            const size_t n = common_length(child->first, key);
            if (n > common) {
                best = child;
                common = n;
            }
        };
        if (after != node->children.end()) consider(after);
        if (after != node->children.begin()) consider(std::prev(after));
        if (common == 0) break;
        node = best->second.get();
        match.pages.push_back(node->page);
        match.n_slots += static_cast<int>(common);
        if (common < page_size) break;
    }
    match.n_tokens = std::max(0, match.n_slots - n_prefix_);
    if (match.n_tokens == 0) return {};
    touch(node);
    return match;
}

void PrefixCache::insert(KvCache::SequenceId sequence, std::span<const int32_t> ids, const Origin& origin) {
    if (ids.empty()) return;
    const std::span<const int> pages = cache_.page_ids(sequence);
    const int n_slots = n_prefix_ + static_cast<int>(ids.size());
    Root& root = roots_[origin.get()];
    root.origin = origin;
    Node* node = &root.node;
    for (size_t page = 0; page < pages.size(); ++page) {
        Key key = key_of(ids, static_cast<int>(page), n_slots);
        if (key.empty()) break;
        auto place = node->children.lower_bound(key);
        if (place != node->children.end() && begins_with(place->first, key)) {
            node = place->second.get();  // the same, or, behind a partly used page, more
            continue;
        }
        // A leaf that ends where this one goes on.
        if (place != node->children.begin() && begins_with(key, std::prev(place)->first)) {
            remove(std::prev(place)->second.get());
        }
        auto child = std::make_unique<Node>();
        child->parent = node;
        child->page = pages[page];
        Node* const added = child.get();
        added->self = node->children.emplace(std::move(key), std::move(child)).first;
        recent_.push_front(added);
        added->recent = recent_.begin();
        cache_.keep(added->page);
        node = added;
    }
    touch(node);
}

void PrefixCache::touch(Node* node) {
    for (; node->parent; node = node->parent) recent_.splice(recent_.begin(), recent_, node->recent);
}

void PrefixCache::remove(Node* node) {
    cache_.drop(node->page);
    recent_.erase(node->recent);
    node->parent->children.erase(node->self);
}

bool PrefixCache::evict_one() {
    for (auto it = recent_.rbegin(); it != recent_.rend(); ++it) {
        Node* const node = *it;
        if (!node->children.empty() || !cache_.idle(node->page)) continue;
        remove(node);
        std::erase_if(roots_, [](const auto& root) { return root.second.node.children.empty(); });
        return true;
    }
    return false;
}

void PrefixCache::clear() {
    for (const Node* node : recent_) cache_.drop(node->page);
    recent_.clear();
    roots_.clear();
}

}  // namespace chatglm
