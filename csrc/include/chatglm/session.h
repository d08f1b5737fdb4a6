// A conversation that was put aside in a file.
#pragma once

#include <string>
#include <vector>

#include "chatglm/message.h"

namespace chatglm {

struct Session {
    std::vector<ChatMessage> messages;
    std::string tools = {};  // the text of a JSON array, as for Tokenizer::apply_chat_template; empty: none
    std::string model = {};  // its name
    // Tokens at the beginning of the conversation whose keys and values the file holds or, after
    // Pipeline::load_session, that the cache got from it.
    int cached_tokens = 0;
};

// The text of a session, without its model. Throws FileError; FormatError when the file is damaged or is no
// session.
Session read_session(const std::string& path);

}  // namespace chatglm
