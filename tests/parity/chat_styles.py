"""Chat templates in the styles that published models use, written for the tests; every construct met is in one of them."""

STYLES = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>"
        "' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    "qwen2: a default system message": (
        "{%- for message in messages %}{%- if loop.first and messages[0]['role'] != 'system' %}"
        "{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
        "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"),
    "qwen3: tools, thinking, slices": (
        "{%- if tools %}{{- 'tools' }}{%- endif %}{%- set ns = namespace(multi=true, last=messages|length - 1) %}"
        '{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}'
        "{%- if ns.multi and message.role == 'user' and message.content is string and not (message.content.startsw"
        "ith('<tool>')) %}{%- set ns.multi = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}"
        "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }"
        "}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
        '{%- endif %}'),
    "llama2: system inside the first turn": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        '{% set system = false %}{% endif %}{% for message in loop_messages %}'
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system != false %}"
        "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}"
        "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"),
    "llama3": (
        '{% set loop_messages = messages %}{% for message in loop_messages %}'
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | tr"
        "im + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
        '{{ content }}{% endfor %}{% if add_generation_prompt %}'
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"),
    "llama3.1: custom tools, macros, undefined names": (
        '{{- bos_token }}\n{%- if custom_tools is defined %}\n    {%- set tools = custom_tools %}\n{%- endif %}\n'
        '{%- if not tools_in_user_message is defined %}\n    {%- set tools_in_user_message = true %}\n{%- endif %}'
        '\n{%- if not date_string is defined %}\n    {%- set date_string = "26 Jul 2024" %}\n{%- endif %}\n'
        '{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n'
        "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}"
        '\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = "" %}\n{%- endif %}\n'
        '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}\n'
        '{%- if builtin_tools is defined or tools is not none %}\n    {{- "Environment: ipython\\n" }}\n{%- endif %}'
        '\n{{- "Today: " + date_string + "\\n\\n" }}{{- system_message }}\n{{- "<|eot_id|>" }}\n'
        "{%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
        "+ message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    "
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"),
    "zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"),
    "gemma: no system role": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"),
    "phi3": (
        "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
        "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
        "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"),
    "phi4: generation tag": (
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '<|im_sep|>'}}{% if m['role'] == 'assistant' %}"
        "{%- generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
        "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}"
        '{% endif %}'),
    "mistral v0.1": (
        '{{ bos_token }}{% for message in messages %}'
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"),
    "mistral v3: selectattr, loop controls": (
        "{%- set system = messages | selectattr('role', 'equalto', 'system') | list %}"
        "{%- set rest = messages | rejectattr('role', 'equalto', 'system') | list %}{{- bos_token }}"
        "{%- for message in rest %}{%- if message.role == 'tool' %}{%- continue %}{%- endif %}"
        '{%- if loop.index > 40 %}{%- break %}{%- endif %}{%- if loop.last and system %}'
        "{{- '[INST] ' + system[0].content + '\n\n' + message.content + '[/INST]' }}{%- else %}"
        "{{- '[INST] ' + message.content + '[/INST]' }}{%- endif %}{%- endfor %}"),
    "deepseek v2": (
        '{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}'
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}"
        "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
        "{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}"
        '{% endif %}'),
    "deepseek r1: namespaces": (
        "{% set ns = namespace(is_first=false, system_prompt='') %}{%- for message in messages %}"
        "{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}"
        '{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}'
        "{%- if message['role'] == 'user' %}{{'<|User|>' + message['content']}}{%- endif %}{%- endfor %}"
        "{% if add_generation_prompt %}{{'<|Assistant|><think>\\n'}}{% endif %}"),
    "command-r: documents": (
        "{{ bos_token }}{% if documents %}{{ 'documents: ' + documents[0].text }}{% endif %}"
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{{ '<|SYSTEM|>' + messages[0]['content'] }}{% else %}{% set loop_messages = messages %}{% endif %}"
        "{% for message in loop_messages %}{{ '<|TURN|>' + message['content'].strip() + '<|END|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|TURN|><|CHATBOT|>' }}{% endif %}"),
    "falcon": (
        "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
        "{{ message['role'] | capitalize + ': ' + message['content'] | trim }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"),
    "vicuna": (
        'A chat between a curious user and an assistant.{% for m in messages %}'
        "{{ ' ' + m.role | upper + ': ' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"),
    "tulu: indented blocks": (
        "{% for message in messages %}\n    {% if message['role'] == 'user' %}\n        "
        "{{- '<|user|>\\n' + message['content'] + '\\n' -}}\n    {% else %}\n{{ message['role'] }}: "
        "{{ message['content'] }}\n    {% endif %}\n    {% if loop.last and add_generation_prompt %}\n        "
        "{{- '<|assistant|>\\n' -}}\n    {% endif %}\n{% endfor %}\n"),
    "smollm3: macros and comments": (
        '{# a comment #}{% macro turn(role, text) -%}<|im_start|>{{ role }}\n{{ text }}<|im_end|>\n{%- endmacro %}'
        '{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}{% if add_generation_prompt %}'
        "{{ '<|im_start|>assistant\n' }}{% endif %}"),
    "tojson": (
        "{{ messages | tojson }}{{ {'b': '<é>', 'a': 1} | tojson(indent=2) }}"
        "{{ [1, 2] | tojson(separators=(',', ':')) }}{{ {'b': 2, 'a': 1} | tojson(sort_keys=true) }}"
        "{{ '中' | tojson(ensure_ascii=true) }}"),
    "special tokens as variables": (
        '{{ bos_token }}{{ unk_token }}{{ pad_token }}{{ eos_token }}{{ sep_token is defined }}'
        '{{ cls_token is defined }}{{ mask_token is defined }}{% for m in messages %}{{ m.content }}{% endfor %}'),
    "content in parts": (
        '{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% else %}'
        "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
        '{{ eos_token }}{% endfor %}'),
    "keys, items, dict, joins": (
        '{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}{{ dict(a=1).a }}'
        "{{ m.get('name', 'none') }}{{ ['a', 'b'] | join('-') }}{% endfor %}"),
    "no newline is kept at the end": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}\n"),
    "minja style filters": (
        "{% for m in messages %}{{ m.content | replace('\n', ' ') | upper | length }}{{ m.content[:3] }}"
        "{{ m.content | first }}{{ loop.cycle('x', 'y') }}{% endfor %}"),
}
