#include "text/tool_prompt.h"

#include <set>
#include <utility>

#include "chatglm/error.h"
#include "text/known_tools.h"

namespace chatglm {
namespace {

// The words that the models were trained with.
constexpr std::string_view kChatGlm3System =
    "Answer the following questions as best as you can. You have access to the following tools:";
constexpr std::string_view kChatGlm3Interpreter =
    "你是一位智能AI助手，你叫ChatGLM，你连接着一台电脑，但请注意不能联网。在使用Python解决任务时，你可以运行"
    "代码并得到结果，如果运行结果有错误，你需要尽可能对代码进行改进。你可以处理用户上传到电脑上的文件，文件默"
    "认"
    "存储路径是/mnt/data/。";

constexpr std::string_view kGlm4System =
    "你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 "
    "模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。";
constexpr std::string_view kGlm4FunctionHint = "在调用上述函数时，请使用 Json 格式表示调用的参数。";

struct BuiltinTool {
    std::string_view type, text;
};
constexpr BuiltinTool kGlm4BuiltinTools[] = {
    {"python",
     "当你向 `python` 发送包含 Python 代码的消息时，该代码将会在一个有状态的 Jupyter notebook 环境中执行。\n"
     "`python` 返回代码执行的输出，或在执行 60 秒后返回超时。\n"
     "`/mnt/data` 将会持久化存储你的文件。在此会话中，`python` 无法访问互联网。不要使用 `python` "
     "进行任何网络请求或者在线 API 调用，这些在线内容的访问将不会成功。"},
    {"simple_browser",
     "你可以使用 `simple_browser` 工具。该工具支持以下函数：\n"
     "`search(query: str, recency_days: int)`：使用搜索引擎进行查询并显示结果，可以使用 `recency_days` "
     "参数控制搜索内容的时效性。\n"
     "`mclick(ids: list[int])`：获取一系列指定 id "
     "的页面内容。每次调用时，须选择3-"
     "10个页面。选择多个角度的页面，同时尽可能选择可信任的信息来源。考虑到部分页面是"
     "无法加载的，你也可以多打开一些可能有用的页面而不用担心内容过多。\n"
     "`open_url(url: str)`：打开指定的 URL。\n\n"
     "使用 `【{引用 id}†{引用文本}】` 来引用内容。\n\n"
     "操作步骤：1. 使用 `search` 来获得信息列表; 2. 使用 `mclick` 来获取指定 ID 页面的内容; 3. "
     "根据获得的内容进行回复。在回复中应当引用信息来源。\n"
     " 如果用户提供了 URL，也可以用 `open_url` 直接打开页面。\n"
     "如果初次搜索结果没有找到合适的信息，也可以再次使用 `search` 进行搜索。"},
    {"cogview",
     "如果用户的请求中包含了对图像的描述，你可以使用 `cogview` 来生成图像并展示给用户。你需要向 `cogview` "
     "发送图像描述，规则：\n"
     "- 发送给 `cogview` 的消息必须使用英语。用户的中文描述必须完全翻译为英语。\n"
     "- 应当尽可能详细地描述图像生成的需求，需求描述约 100 英文单词。\n"
     "- 保持用户原始描述的意图。不要虚构内容或者没见过的人物。\n"
     "- 如无特殊说明，所在地为中国，持有中国立场并遵循中国社会主义价值观。"},
};

Json::Format indented() {
    Json::Format format;
    format.indent = 4;
    return format;
}

std::string place(size_t i) {
    return "tools[" + std::to_string(i) + "]";
}

// The type of a built-in tool; empty for a function.
std::string builtin_type(const Json& tool) {
    const Json* type = tool.find("type");
    if (function_of(tool) || !type || !type->string()) return {};
    return *type->string() == "code_interpreter" ? "python" : *type->string();
}

void check_function(const Json& function, const std::string& where) {
    if (!function.object()) throw InvalidArgument(where + " must be a JSON object.");
    const Json* name = function.find("name");
    if (!name || !name->string()) throw InvalidArgument(where + " has no name: a function needs one.");
    if (!is_tool_name(*name->string())) {
        throw InvalidArgument("The name of " + where + " is \"" + *name->string() +
                              "\"; it must be 1 to 64 letters, digits, _, - or . of ASCII.");
    }
    const Json* description = function.find("description");
    if (description && !description->is_null() && !description->string())
        throw InvalidArgument(where + ".description must be a text.");
    const Json* parameters = function.find("parameters");
    if (parameters && !parameters->is_null() && !parameters->object())
        throw InvalidArgument(where + ".parameters must be a JSON object, the schema of the arguments.");
}

void check_tool(const Json& tool, const std::string& where) {
    if (!tool.object()) throw InvalidArgument(where + " must be a JSON object.");
    const Json* function = function_of(tool);
    const Json* type = tool.find("type");
    const bool has_type = type && !type->is_null();
    if (has_type && !type->string()) throw InvalidArgument(where + ".type must be a text.");
    if (!function) {
        if (has_type && *type->string() != "function") return;
        throw InvalidArgument(where + " is no tool: it needs the \"name\" of a function, or a \"function\".");
    }
    if (function != &tool && has_type && *type->string() != "function") {
        throw InvalidArgument(where + " has a function and the type \"" + *type->string() +
                              "\"; the type must be \"function\".");
    }
    check_function(*function, function == &tool ? where : where + ".function");
}

std::string chatglm3_tools(const Json& tools) {
    Json::Array functions;
    for (const Json& tool : *tools.array()) {
        if (const Json* function = function_of(tool)) functions.push_back(*function);
    }
    return functions.empty() ? std::string() : "\n" + Json(std::move(functions)).dump(indented());
}

std::string glm4_tool(const Json& tool, size_t i) {
    if (const Json* function = function_of(tool)) {
        return "\n\n## " + *function->find("name")->string() + "\n\n" + function->dump(indented()) + "\n" +
               std::string(kGlm4FunctionHint);
    }
    const std::string type = builtin_type(tool);
    for (const BuiltinTool& builtin : kGlm4BuiltinTools) {
        if (type == builtin.type)
            return "\n\n## " + std::string(builtin.type) + "\n\n" + std::string(builtin.text);
    }
    throw InvalidArgument(place(i) + " has the type \"" + type +
                          "\"; GLM-4 has functions, python, simple_browser and cogview.");
}

}  // namespace

Json parse_tools(const std::string& tools) {
    Json json = Json::parse(tools);
    if (!json.array()) throw InvalidArgument("The tools must be a JSON array of tool definitions.");
    const Json::Array& all = *json.array();
    std::set<std::string> names;
    for (size_t i = 0; i < all.size(); ++i) {
        check_tool(all[i], place(i));
        const Json* function = function_of(all[i]);
        const std::string name = function ? *function->find("name")->string() : builtin_type(all[i]);
        if (!names.insert(name).second)
            throw InvalidArgument(place(i) + " is a second tool with the name \"" + name + "\".");
    }
    return json;
}

Json wrap_tools(const Json& tools, const std::function<bool(const std::string& type)>& knows) {
    Json::Array out;
    for (size_t i = 0; i < tools.array()->size(); ++i) {
        const Json& tool = (*tools.array())[i];
        if (tool.find("function")) {
            out.push_back(tool);
            if (!tool.find("type")) out.back().set("type", "function");
        } else if (function_of(tool)) {
            out.push_back(Json::Object{{"type", "function"}, {"function", tool}});
        } else if (const std::string type = builtin_type(tool); knows(type)) {
            out.push_back(tool);
            out.back().set("type", type);
        } else {
            throw InvalidArgument(place(i) + " has the type \"" + type +
                                  "\", which this model's chat template does not know.");
        }
    }
    return out;
}

std::vector<ChatMessage> with_tools(std::vector<ChatMessage> messages, const Json& tools, ToolStyle style) {
    const Json::Array& all = *tools.array();
    if (all.empty()) return messages;
    std::string own;  // the message that the model was trained with
    if (style == ToolStyle::glm4) {
        own = kGlm4System;
        for (size_t i = 0; i < all.size(); ++i) own += glm4_tool(all[i], i);
        messages.insert(messages.begin(), ChatMessage{ChatMessage::kRoleSystem, std::move(own), {}});
        return messages;
    }
    bool runs_code = false;
    for (size_t i = 0; i < all.size(); ++i) {
        const std::string type = builtin_type(all[i]);
        if (!type.empty() && type != "python") {
            throw InvalidArgument(place(i) + " has the type \"" + type +
                                  "\"; ChatGLM3 has functions and python, its code interpreter.");
        }
        runs_code = runs_code || !type.empty();
    }
    const std::string functions = chatglm3_tools(tools);
    const auto add = [&](std::string_view text) { own += (own.empty() ? "" : "\n") + std::string(text); };
    const bool has_system = !messages.empty() && messages[0].role == ChatMessage::kRoleSystem;
    if (!has_system) messages.insert(messages.begin(), ChatMessage{ChatMessage::kRoleSystem, "", {}});
    if (has_system) add(messages[0].content);
    if (runs_code) add(kChatGlm3Interpreter);
    if (!has_system && !functions.empty()) add(kChatGlm3System);
    messages[0].content = own + functions;
    return messages;
}

Json protect_strings(const Json& json, const SpecialGuard& guard) {
    if (const std::string* text = json.string()) return guard.protect(*text);
    if (const Json::Array* array = json.array()) {
        Json::Array items;
        for (const Json& item : *array) items.push_back(protect_strings(item, guard));
        return items;
    }
    if (const Json::Object* object = json.object()) {
        Json::Object members;
        for (const auto& [key, value] : *object)
            members.emplace_back(guard.protect(key), protect_strings(value, guard));
        return members;
    }
    return json;
}

}  // namespace chatglm
