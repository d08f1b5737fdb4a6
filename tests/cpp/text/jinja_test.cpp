#include "text/jinja.h"

#include <doctest/doctest.h>

#include "chatglm/error.h"

using chatglm::FormatError;
using chatglm::InvalidArgument;
using chatglm::Json;
using chatglm::jinja::Template;

namespace {

std::string render(std::string_view source, const char* variables = "{}") {
    return Template(source).render(Json::parse(variables));
}

std::string value(const std::string& expression) {
    return render("{{ " + expression + " }}");
}

}  // namespace

TEST_CASE("jinja: whitespace is controlled as with trim_blocks and lstrip_blocks") {
    CHECK(render("a\n  {% if true %}  \nb\n  {% endif %}c\n") == "a\n  \nb\nc");
    CHECK(render("a {%- if true -%} b {%- endif -%} c") == "abc");
    CHECK(render("a\n  {{- 'b' -}}  \n c") == "abc");
    CHECK(render("{{ 'a' }}\n{{ 'b' }}\n\n") == "a\nb\n");
    CHECK(render(" {%+ if true +%}\nx{% endif %}") == " \nx");
    CHECK(render("{# c #}\n  {# d #}\nx\r\ny") == "x\ny");
    CHECK(render("{% raw %}{{ x }}{% endraw %}") == "{{ x }}");
    CHECK(render("x\t{% if true %}\ty{% endif %}") == "x\t\ty");
}

TEST_CASE("jinja: operators bind as in Jinja") {
    CHECK(value("1 + 2 * 3 ** 2") == "19");
    CHECK(value("-7 // 2 ~ -7 % 3 ~ 7 / 2") == "-423.5");
    CHECK(value("-2 ** 2") == "4");
    CHECK(value("1 < 2 < 3 and not 2 in [1] or false") == "True");
    CHECK(value("'x' if false else 'y' if none else 'z'") == "z");
    CHECK(value("'a' ~ 'b' == 'ab'") == "True");
    CHECK(value("-1|abs ~ 'x'|upper") == "1X");
    CHECK(value("'你好吗'[1:] ~ 'abc'[::-1] ~ [1, 2, 3][-1]") == "好吗cba3");
    CHECK(value("1 is not none and 'a' is string and x is undefined and 3 is odd") == "True");
}

TEST_CASE("jinja: values are printed as Python prints them") {
    CHECK(value("[1, 'it\\'s', none, true, 1.0, {'k': (1,)}]") ==
          "[1, \"it's\", None, True, 1.0, {'k': (1,)}]");
    CHECK(value("{'a': [1, {}], 'b': '语\"'}|tojson") == "{\"a\": [1, {}], \"b\": \"语\\\"\"}");
    CHECK(value("{'a': [1]}|tojson(indent=2)") == "{\n  \"a\": [\n    1\n  ]\n}");
    CHECK(value("nothing") == "");
}

TEST_CASE("jinja: methods and filters") {
    CHECK(value("'<think>\\nx</think>\\ny '.split('</think>')[-1].strip()") == "y");
    CHECK(value("' a  b '.split()|join('-')") == "a-b");
    CHECK(value("'a,b,c'.split(',', 1)") == "['a', 'b,c']");
    CHECK(value("'aXX'.replace('X', '-', 1) ~ 'x'.startswith(('y', 'x'))") == "a-XTrue");
    CHECK(value("[{'r': 'u'}, {'r': 's'}]|selectattr('r', 'equalto', 'u')|map(attribute='r')|list") ==
          "['u']");
    CHECK(value("[3, 1]|sort|first ~ {'b': 1}|dictsort ~ ''|default('d', true)") == "1[('b', 1)]d");
    CHECK(value("'a\\n\\nb'|indent(2) ~ '12'|int ~ 'abc'|length") == "a\n\n  b123");
    CHECK(value("{'a': 1}.get('z', 'd') ~ {'items': 5}['items'] ~ {'a': 1}.items()|list") == "d5[('a', 1)]");
}

TEST_CASE("jinja: statements and scopes") {
    CHECK(render("{% for i in [1,2,3,4] if i > 1 %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last "
                 "}}{% endfor %}") == "1/3,2/3,3/3");
    CHECK(render("{% for i in [] %}a{% else %}b{% endfor %}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v "
                 "}}{% endfor %}") == "ba1");
    CHECK(render("{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}{% set x = "
                 "3 %}{% endif %}{{ x }}") == "13");
    CHECK(render("{% set ns = namespace(n=0) %}{% for i in [1,2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ "
                 "ns.n }}") == "3");
    CHECK(render("{% macro f(a, b=2) %}{{ a }}{{ b }}{{ g }}{% endmacro %}{% set g = 'g' %}{{ f(1) }}{{ "
                 "f(b=3, a=0) }}") == "12g03g");
    CHECK(render("{% set x %} {{ 1 }} {% endset %}[{{ x|trim }}]{% filter upper %}a{% endfilter %}") ==
          "[1]A");
    CHECK(render("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif "
                 "%}{{ i }}{% endfor %}") == "02");
    CHECK(render(
              "{% for m in messages %}{{ loop.previtem.r if loop.previtem is defined }}{{ m.r }}{% endfor %}",
              R"({"messages": [{"r": "a"}, {"r": "b"}]})") == "aab");
}

TEST_CASE("jinja: what templates of models that think and call tools do") {
    CHECK(render("{% set f = tool.function if tool.get(\"function\") else tool %}## {{ f.name }}\n"
                 "{{ f | tojson(indent=4, ensure_ascii=False) }}",
                 R"({"tool": {"type": "function", "function": {"name": "查", "n": 1}}})") ==
          "## 查\n{\n    \"name\": \"查\",\n    \"n\": 1\n}");
    // A loop with a condition whose body only sets and prints, with text lines between.
    CHECK(render("a\n{%- for message in messages if message.role != 'system' %}\n"
                 "    {%- set role = message['role'] %}\n"
                 "    {%- set visible = message['content'].split('</think>')[-1].strip() %}\n"
                 "    {%- set meta = message.get(\"metadata\", \"\") %}\n\n"
                 "    {%- if role == 'user' %}\n<u>\n{{ visible }}\n"
                 "    {%- elif role == 'assistant' and not meta %}\n<a>\n{{ visible }}\n"
                 "    {%- elif role == 'assistant' and meta %}\n<a>{{ meta }} \n{{ visible }}\n"
                 "    {%- endif %}\n{%- endfor %}\n{% if go %}<a>\n<think>{% endif %}",
                 R"({"go": true, "messages": [{"role": "system", "content": "s"},
                     {"role": "user", "content": " q "}, {"role": "assistant", "content": "x</think>\n\na"},
                     {"role": "assistant", "metadata": "f", "content": "{}"}]})") ==
          "a<u>\nq<a>\na<a>f \n{}<a>\n<think>");
    CHECK(render("{%- macro visible_text(content) -%}\n"
                 "    {%- if content is string -%}\n        {{- content }}\n"
                 "    {%- elif content is iterable and content is not mapping -%}\n"
                 "        {%- for item in content -%}\n"
                 "            {%- if item is mapping and item.type == 'text' -%}\n"
                 "                {{- item.text }}\n"
                 "            {%- elif item is string -%}\n                {{- item }}\n"
                 "            {%- endif -%}\n        {%- endfor -%}\n"
                 "    {%- else -%}\n        {{- content }}\n    {%- endif -%}\n{%- endmacro -%}\n"
                 "{{ visible_text('a') }}|{{ visible_text(['b', {'type': 'text', 'text': 'c'}]) }}|"
                 "{{ visible_text(none) }}") == "a|bc|None");
    CHECK(
        value(
            "'<think>\\nx\\n</think>\\n\\ny'.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip("
            "'\\n')") == "x");
    CHECK(render(
              "{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}"
              "{{- '/nothink' if (off is defined and not off and not 'q'.endswith(\"/nothink\")) else '' -}}",
              R"({"off": false})") == "/nothink");
    CHECK(render("{% for m in messages %}{% if loop.first or (messages[loop.index0 - 1].role != \"tool\") %}"
                 "{{- '<o>' }}{% endif %}{% for tc in m.tool_calls or [] %}{%- if tc.function %}{%- set tc = "
                 "tc.function %}{%- endif %}{% set _args = tc.arguments %}{% for k, v in _args.items() %}"
                 "{{ tc.name }}.{{ k }}={{ v | tojson(ensure_ascii=False) if v is not string else v }};"
                 "{% endfor %}{% endfor %}{{ m.reasoning_content is string }}{% endfor %}",
                 R"({"messages": [{"role": "tool"}, {"role": "tool", "reasoning_content": "",
                     "tool_calls": [{"function": {"name": "f", "arguments": {"a": "x", "b": [1]}}}]}]})") ==
          "<o>Falsef.a=x;f.b=[1];True");
}

TEST_CASE("jinja: what is not understood is named with its line") {
    CHECK_THROWS_WITH_AS(Template("a\n{% include 'x' %}"),
                         "Chat template, line 2: the statement 'include' is not known.", FormatError);
    CHECK_THROWS_WITH_AS(render("\n\n{{ 'x'|nosuch }}"),
                         "Chat template, line 3: the filter 'nosuch' is not known.", FormatError);
    CHECK_THROWS_WITH_AS(render("{{ foo(1) }}"), "Chat template, line 1: the function 'foo' is not known.",
                         FormatError);
    CHECK_THROWS_WITH_AS(render("{{ raise_exception('no') }}"),
                         "The chat template of the model refuses these messages: no", InvalidArgument);
    CHECK_THROWS_WITH_AS(render("{{ a.b.c }}", R"({"a": {}})"),
                         "Chat template, line 1: 'b' is undefined, and so has no 'c'.", FormatError);
    for (const char* source :
         {"{% if %}{% endif %}", "{% for x in y %}", "{{ 1 + }}", "{{ 'a }}", "{% endif %}", "{{ a b }}",
          "{# open", "{{ (1 }}", "{% set %}", "{{ 1", "{% break %}", "{{ [1 }}", "{% raw %}",
          "{{ 99999999999999999999 }}", "{% for x in y recursive %}{% endfor %}", "{{ f(*x) }}", "{{ ` }}",
          "{{ x[] }}", "{% if true %}{% endfor %}"}) {
        CAPTURE(source);
        CHECK_THROWS_AS(Template{source}, FormatError);
    }
}

TEST_CASE("jinja: nothing of the host can be reached or changed") {
    CHECK(value("''.__class__") == "");
    CHECK_THROWS_AS(value("''.__class__.__mro__"), FormatError);
    CHECK_THROWS_AS(value("[].append(1)"), FormatError);
    CHECK_THROWS_AS(value("{}.update({'a': 1})"), FormatError);
}

TEST_CASE("jinja: no template runs, grows or nests without bound") {
    const std::string loops =
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% "
        "endfor %}{% endfor %}";
    const std::string doubling =
        "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s "
        "%}{% endfor %}";
    const std::string nesting =
        "{% set ns = namespace(l=[]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}";
    const std::string methods =
        "{% set ns = namespace(d={}) %}{% for i in range(100000) %}{% set ns.d = {'m': ns.d.get} %}{% endfor "
        "%}";
    for (const std::string& source :
         {loops, doubling, nesting + "{{ ns.l }}", nesting + "{{ ns.l|tojson }}",
          nesting + "{{ ns.l == ns.l }}", methods,
          std::string("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"),
          std::string("{{ 'x' * 10000000000 }}"), std::string("{{ [0] * 10000000000 }}"),
          std::string("{{ 9 ** 9 ** 9 }}"), std::string("{{ 9223372036854775807 + 1 }}"),
          std::string("{{ range(0, 9223372036854775807, 1)|list }}"),
          std::string("{{ 'x'|indent(1000, true) * 1000000 }}"), "{{ " + std::string(100'000, '(') + " }}",
          "{{ " + std::string(100'000, '-') + "1 }}", "{{ x" + std::string(100'000, '.') + " }}",
          std::string("{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% "
                      "endfor %}"),
          [] {
              std::string text = "{{ 1";
              for (int i = 0; i < 50'000; ++i) text += "+1";
              return text + " }}";
          }(),
          [] {
              std::string text;
              for (int i = 0; i < 50'000; ++i) text += "{% if true %}";
              return text;
          }()}) {
        CAPTURE(source.substr(0, 80));
        CHECK_THROWS_AS(render(source), FormatError);
    }
    CHECK_THROWS_AS(Template{std::string((size_t{1} << 20) + 1, 'x')}, FormatError);
}

TEST_CASE("jinja: cycles and long chains of namespaces are let go") {
    CHECK(render("{% set ns = namespace() %}{% set ns.self = [ns] %}{{ ns.self[0].self|length }}") == "1");
    CHECK(render("{% set head = namespace() %}{% set ns = namespace(last=head) %}{% for i in range(50000) %}"
                 "{% set n = namespace() %}{% set last = ns.last %}{% set last.next = [n] %}{% set ns.last = "
                 "n %}{% endfor %}ok") == "ok");
}
