// Command line options: names, help and what they set, in one table.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "chatglm/error.h"

namespace chatglm {

struct Option {
    std::vector<std::string> names;  // "-m", "--model"; '_' and '-' inside a name are the same
    std::string value;               // what its value is called in the help; empty: it has none
    std::string help;
    std::function<void(const std::string& value)> set;
};

inline std::string option_name(std::string_view text) {
    std::string name(text);
    const size_t dashes = std::min(name.find_first_not_of('-'), name.size());
    std::replace(name.begin() + static_cast<std::ptrdiff_t>(dashes), name.end(), '-', '_');
    return name;
}

// Throws InvalidArgument for an unknown option or a missing value.
inline void parse_options(const std::vector<std::string>& arguments, const std::vector<Option>& options) {
    for (size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        const size_t equals = argument.rfind("--", 0) == 0 ? argument.find('=') : std::string::npos;
        const std::string name = option_name(std::string_view(argument).substr(0, equals));
        const auto option = std::find_if(options.begin(), options.end(), [&](const Option& o) {
            return std::any_of(o.names.begin(), o.names.end(),
                               [&](const std::string& known) { return option_name(known) == name; });
        });
        if (option == options.end())
            throw InvalidArgument("There is no option '" + argument + "'; see --help.");
        if (option->value.empty()) {
            if (equals != std::string::npos) throw InvalidArgument("The option " + name + " takes no value.");
            option->set("");
        } else if (equals != std::string::npos) {
            option->set(argument.substr(equals + 1));
        } else if (i + 1 < arguments.size()) {
            option->set(arguments[++i]);
        } else {
            throw InvalidArgument("The option " + argument + " needs a value: " + option->value + ".");
        }
    }
}

inline void print_options(std::ostream& out, const std::vector<Option>& options) {
    constexpr size_t kHelpColumn = 32;
    for (const Option& option : options) {
        std::string left = "  ";
        for (const std::string& name : option.names) left += (left.size() > 2 ? ", " : "") + name;
        if (!option.value.empty()) left += " " + option.value;
        if (left.size() + 2 > kHelpColumn)
            left += "\n" + std::string(kHelpColumn, ' ');
        else
            left.resize(kHelpColumn, ' ');
        out << left << option.help << "\n";
    }
}

template <class Integer>
Integer parse_integer(const std::string& option, const std::string& text) {
    Integer value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
        throw InvalidArgument(option + " is '" + text + "'; it must be a whole number of a sensible size.");
    }
    return value;
}

// "128,512" at its commas.
inline std::vector<std::string> parse_list(const std::string& text) {
    std::vector<std::string> values;
    for (size_t begin = 0; begin <= text.size();) {
        const size_t end = std::min(text.find(',', begin), text.size());
        values.push_back(text.substr(begin, end - begin));
        begin = end + 1;
    }
    return values;
}

inline std::vector<int> parse_integers(const std::string& option, const std::string& text) {
    std::vector<int> values;
    for (const std::string& item : parse_list(text)) values.push_back(parse_integer<int>(option, item));
    return values;
}

inline float parse_float(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const float value = std::strtof(text.c_str(), &end);
    if (text.empty() || end != text.c_str() + text.size() || !std::isfinite(value)) {
        throw InvalidArgument(option + " is '" + text + "'; it must be a number.");
    }
    return value;
}

}  // namespace chatglm
