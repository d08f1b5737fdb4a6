"""Chat templates (Jinja) for models whose checkpoint carries none: the same prompt as the engine's own chat
formats, for other programs that read the file."""

# A first question stands alone; with a history "[Round i]" counts the user's turns from 0.
CHATGLM = (
    "{% set ns = namespace(round=0) %}{% for message in messages %}"
    "{% if messages|length == 1 %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}[Round {{ ns.round }}]\n问：{{ message['content'] }}\n答："
    "{% set ns.round = ns.round + 1 %}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}\n"
    "{% endif %}{% endfor %}[gMASK]<sop>"
)

# "[Round i]" counts the user's turns from 1.
CHATGLM2 = (
    "[gMASK]sop{% set ns = namespace(round=0) %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set ns.round = ns.round + 1 %}"
    "[Round {{ ns.round }}]\n\n问：{{ message['content'] }}\n\n答："
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}\n\n"
    "{% endif %}{% endfor %}"
)

# The tokenizer adds the space in front of "\n" itself; the one in front of the content is there because the
# original encodes the line and the content apart.
CHATGLM3 = (
    "[gMASK]sop{% for message in messages %}<|{{ message['role'] }}|>{{ message['metadata'] or '' }}\n"
    "{% if message['content'] %} {{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

GLM4 = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>{{ message['metadata'] or '' }}\n"
    "{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

BY_FORMAT = {"chatglm": CHATGLM, "chatglm2": CHATGLM2, "chatglm3": CHATGLM3, "glm4": GLM4}
