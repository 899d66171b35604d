"""Writes tests/golden/text/templates.json: chat templates and snippets with their inputs and what
Jinja2 gives for them, set up as transformers does (transformers.utils.chat_template_utils).

    python tests/oracle/gen_templates.py       # from the root of the tree

The templates are written for these tests; they use the constructs of the published ones."""
import copy
import datetime
import json
import os

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "text")
NOW = 1732354800  # 2024-11-23 09:40:00 UTC


def T(*lines):
    return "\n".join(lines)


CHATML = T("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
           "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")

SMOL = T("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named Tiny<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

QWEN_VL = T("{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system",
            "You are a helpful assistant.<|im_end|>",
            "{% endif %}<|im_start|>{{ message['role'] }}",
            "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>",
            "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
            "{% elif content['type'] == 'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
            "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>",
            "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant",
            "{% endif %}")

QWEN_TOOLS = T("{%- if tools %}",
               "    {{- '<|im_start|>system\\n' }}",
               "    {%- if messages[0]['role'] == 'system' %}",
               "        {{- messages[0]['content'] }}",
               "    {%- else %}",
               "        {{- 'You are a helpful assistant.' }}",
               "    {%- endif %}",
               "    {{- \"\\n\\n# Tools\\n\\nSignatures within <tools></tools>:\\n<tools>\" }}",
               "    {%- for tool in tools %}",
               "        {{- \"\\n\" }}",
               "        {{- tool | tojson }}",
               "    {%- endfor %}",
               "    {{- \"\\n</tools>\\nReturn {\\\"name\\\": <name>, \\\"arguments\\\": <object>}<|im_end|>\\n\" }}",
               "{%- else %}",
               "    {%- if messages[0]['role'] == 'system' %}",
               "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}",
               "    {%- endif %}",
               "{%- endif %}",
               "{%- for message in messages %}",
               "    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}",
               "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}",
               "    {%- elif message.role == \"assistant\" %}",
               "        {{- '<|im_start|>' + message.role }}",
               "        {%- if message.content %}",
               "            {{- '\\n' + message.content }}",
               "        {%- endif %}",
               "        {%- for tool_call in message.tool_calls %}",
               "            {%- if tool_call.function is defined %}",
               "                {%- set tool_call = tool_call.function %}",
               "            {%- endif %}",
               "            {{- '\\n<tool_call>\\n{\"name\": \"' }}",
               "            {{- tool_call.name }}",
               "            {{- '\", \"arguments\": ' }}",
               "            {{- tool_call.arguments | tojson }}",
               "            {{- '}\\n</tool_call>' }}",
               "        {%- endfor %}",
               "        {{- '<|im_end|>\\n' }}",
               "    {%- elif message.role == \"tool\" %}",
               "        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != \"tool\") %}",
               "            {{- '<|im_start|>user' }}",
               "        {%- endif %}",
               "        {{- '\\n<tool_response>\\n' }}",
               "        {{- message.content }}",
               "        {{- '\\n</tool_response>' }}",
               "        {%- if loop.last or (messages[loop.index0 + 1].role != \"tool\") %}",
               "            {{- '<|im_end|>\\n' }}",
               "        {%- endif %}",
               "    {%- endif %}",
               "{%- endfor %}",
               "{%- if add_generation_prompt %}",
               "    {{- '<|im_start|>assistant\\n' }}",
               "{%- endif %}", "")

QWEN3 = T("{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}",
          "{%- for message in messages[::-1] %}",
          "    {%- set index = (messages|length - 1) - loop.index0 %}",
          "    {%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}",
          "        {%- set ns.multi_step_tool = false %}",
          "        {%- set ns.last_query_index = index %}",
          "    {%- endif %}",
          "{%- endfor %}",
          "{%- for message in messages %}",
          "    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}",
          "    {%- if message.role == \"assistant\" %}",
          "        {%- set reasoning_content = '' %}",
          "        {%- if message.reasoning_content is string %}",
          "            {%- set reasoning_content = message.reasoning_content %}",
          "        {%- else %}",
          "            {%- if '</think>' in content %}",
          "                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}",
          "                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}",
          "            {%- endif %}",
          "        {%- endif %}",
          "        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}",
          "            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}",
          "        {%- else %}",
          "            {{- '<|im_start|>' + message.role + '\\n' + content }}",
          "        {%- endif %}{{- '<|im_end|>\\n' }}",
          "    {%- else %}",
          "        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}",
          "    {%- endif %}",
          "{%- endfor %}",
          "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}")

LLAMA2 = ("{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
          "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
          "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
          "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")

LLAMA3 = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
          "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")

LLAMA31 = T("{{- bos_token }}",
            "{%- if custom_tools is defined %}", "    {%- set tools = custom_tools %}", "{%- endif %}",
            "{%- if not tools_in_user_message is defined %}", "    {%- set tools_in_user_message = true %}", "{%- endif %}",
            "{%- if not date_string is defined %}",
            "    {%- if strftime_now is defined %}", "        {%- set date_string = strftime_now(\"%d %b %Y\") %}",
            "    {%- else %}", "        {%- set date_string = \"26 Jul 2024\" %}", "    {%- endif %}", "{%- endif %}",
            "{%- if not tools is defined %}", "    {%- set tools = none %}", "{%- endif %}",
            "", "{#- The system message comes out first, so it is taken off here. #}",
            "{%- if messages[0]['role'] == 'system' %}",
            "    {%- set system_message = messages[0]['content']|trim %}", "    {%- set messages = messages[1:] %}",
            "{%- else %}", "    {%- set system_message = \"\" %}", "{%- endif %}",
            "", "{#- System message #}",
            "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}",
            "{%- if tools is not none %}", "    {{- \"Environment: ipython\\n\" }}", "{%- endif %}",
            "{{- \"Cutting Knowledge Date: December 2023\\n\" }}", "{{- \"Today Date: \" + date_string + \"\\n\\n\" }}",
            "{%- if tools is not none and not tools_in_user_message %}",
            "    {%- for t in tools %}", "        {{- t | tojson(indent=4) }}", "        {{- \"\\n\\n\" }}", "    {%- endfor %}", "{%- endif %}",
            "{{- system_message }}", "{{- \"<|eot_id|>\" }}",
            "{%- if tools_in_user_message and not tools is none %}",
            "    {%- if messages | length != 0 %}",
            "        {%- set first_user_message = messages[0]['content']|trim %}", "        {%- set messages = messages[1:] %}",
            "    {%- else %}", "        {{- raise_exception(\"No first user message to put the tools in!\") }}", "{%- endif %}",
            "    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}", "    {{- \"Given these functions, answer with a JSON call.\\n\\n\" }}",
            "    {%- for t in tools %}", "        {{- t | tojson(indent=4) }}", "        {{- \"\\n\\n\" }}", "    {%- endfor %}",
            "    {{- first_user_message + \"<|eot_id|>\"}}", "{%- endif %}",
            "{%- for message in messages %}",
            "    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}",
            "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}",
            "    {%- elif 'tool_calls' in message %}",
            "        {%- if not message.tool_calls|length == 1 %}", "            {{- raise_exception(\"One call at a time!\") }}", "        {%- endif %}",
            "        {%- set tool_call = message.tool_calls[0].function %}",
            "        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}",
            "        {{- '{\"name\": \"' + tool_call.name + '\", ' }}", "        {{- '\"parameters\": ' }}", "        {{- tool_call.arguments | tojson }}",
            "        {{- \"}\" }}", "        {{- \"<|eot_id|>\" }}",
            "    {%- elif message.role == \"tool\" or message.role == \"ipython\" %}",
            "        {{- \"<|start_header_id|>ipython<|end_header_id|>\\n\\n\" }}",
            "        {%- if message.content is mapping or message.content is iterable and message.content is not string %}",
            "            {{- message.content | tojson }}", "        {%- else %}", "            {{- message.content }}", "        {%- endif %}",
            "        {{- \"<|eot_id|>\" }}", "    {%- endif %}", "{%- endfor %}",
            "{%- if add_generation_prompt %}", "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}", "{%- endif %}", "")

MLLAMA = T("{%- set image_ns = namespace(has_images=false) %}",
           "{%- for message in messages %}{%- for content in message['content'] %}{%- if content['type'] == 'image' %}{%- set image_ns.has_images = true %}{%- endif %}{%- endfor %}{%- endfor %}",
           "{%- if image_ns.has_images and messages[0]['role'] == 'system' %}{{- raise_exception(\"Images with a system message do not work.\") }}{%- endif %}",
           "{%- for message in messages %}", "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}",
           "{%- if message['content'] is string %}", "{{- message['content'] }}", "{%- else %}",
           "{%- for content in message['content'] %}", "{%- if content['type'] == 'image' %}{{- '<|image|>' }}{%- elif content['type'] == 'text' %}{{- content['text'] }}{%- endif %}", "{%- endfor %}", "{%- endif %}",
           "{{- '<|eot_id|>' }}", "{%- endfor %}")

LLAVA = ("{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}{# images first #}"
         "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{# then the texts #}"
         "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}"
         "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")

VICUNA = T("{%- set ns = namespace(sys='A chat between a curious user and an assistant.') -%}",
           "{%- for m in messages if m.role == 'system' -%}{%- set ns.sys = m.content -%}{%- endfor -%}",
           "{{ ns.sys }} {% for m in messages if m.role != 'system' -%}",
           "{{ {'user': 'USER', 'assistant': 'ASSISTANT'}[m.role] }}: {{ m.content | trim }}{{ '</s>' if m.role == 'assistant' else ' ' }}",
           "{%- endfor -%}{% if add_generation_prompt %}ASSISTANT:{% endif %}")

MISTRAL = T("{%- if messages[0][\"role\"] == \"system\" %}", "    {%- set system_message = messages[0][\"content\"] %}", "    {%- set loop_messages = messages[1:] %}", "{%- else %}",
            "    {%- set loop_messages = messages %}", "{%- endif %}", "{%- if not tools is defined %}", "    {%- set tools = none %}", "{%- endif %}",
            "{%- set user_messages = loop_messages | selectattr(\"role\", \"equalto\", \"user\") | list %}", "",
            "{%- set ns = namespace() %}", "{%- set ns.index = 0 %}",
            "{%- for message in loop_messages %}", "    {%- if not (message.role == \"tool\" or message.role == \"tool_results\" or (message.tool_calls is defined and message.tool_calls is not none)) %}",
            "        {%- if (message[\"role\"] == \"user\") != (ns.index % 2 == 0) %}", "            {{- raise_exception(\"After the system message, roles must alternate\") }}", "        {%- endif %}",
            "        {%- set ns.index = ns.index + 1 %}", "    {%- endif %}", "{%- endfor %}", "",
            "{{- bos_token }}", "{%- for message in loop_messages %}", "    {%- if message[\"role\"] == \"user\" %}",
            "        {%- if tools is not none and (message == user_messages[-1]) %}", "            {{- \"[AVAILABLE_TOOLS] [\" }}",
            "            {%- for tool in tools %}", "                {%- set tool = tool.function %}", "                {{- '{\"type\": \"function\", \"function\": {' }}",
            "                {%- for key, val in tool.items() if key != \"return\" %}", "                    {%- if val is string %}", "                        {{- '\"' + key + '\": \"' + val + '\"' }}",
            "                    {%- else %}", "                        {{- '\"' + key + '\": ' + val|tojson }}", "                    {%- endif %}",
            "                    {%- if not loop.last %}", "                        {{- \", \" }}", "                    {%- endif %}", "                {%- endfor %}", "                {{- \"}}\" }}",
            "                {%- if not loop.last %}", "                    {{- \", \" }}", "                {%- else %}", "                    {{- \"]\" }}", "                {%- endif %}",
            "            {%- endfor %}", "            {{- \"[/AVAILABLE_TOOLS]\" }}", "            {%- endif %}",
            "        {%- if loop.last and system_message is defined %}", "            {{- \"[INST] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" }}",
            "        {%- else %}", "            {{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}", "        {%- endif %}",
            "    {%- elif message.tool_calls is defined and message.tool_calls is not none %}", "        {{- \"[TOOL_CALLS] [\" }}",
            "        {%- for tool_call in message.tool_calls %}", "            {%- set out = tool_call.function|tojson %}", "            {{- out[:-1] }}",
            "            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}", "                {{- raise_exception(\"Tool call IDs should be alphanumeric strings with length 9!\") }}", "            {%- endif %}",
            "            {{- ', \"id\": \"' + tool_call.id + '\"}' }}", "            {%- if not loop.last %}", "                {{- \", \" }}", "            {%- else %}", "                {{- \"]\" + eos_token }}", "            {%- endif %}", "        {%- endfor %}",
            "    {%- elif message[\"role\"] == \"assistant\" %}", "        {{- \" \" + message[\"content\"]|trim + eos_token}}",
            "    {%- elif message[\"role\"] == \"tool_results\" or message[\"role\"] == \"tool\" %}",
            "        {%- if message.content is defined and message.content.content is defined %}", "            {%- set content = message.content.content %}", "        {%- else %}", "            {%- set content = message.content %}", "        {%- endif %}",
            "        {{- '[TOOL_RESULTS] {\"content\": ' + content|string + \", \" }}",
            "        {{- '\"call_id\": \"' + (message.tool_call_id or 'none') + '\"}[/TOOL_RESULTS]' }}",
            "    {%- else %}", "        {{- raise_exception(\"Only user and assistant roles are supported!\") }}", "    {%- endif %}", "{%- endfor %}", "")

GEMMA = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
         "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}")

GEMMA3 = T("{{ bos_token }}", "{%- if messages[0]['role'] == 'system' -%}", "    {%- if messages[0]['content'] is string -%}", "        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}",
           "    {%- else -%}", "        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}", "    {%- endif -%}", "    {%- set loop_messages = messages[1:] -%}",
           "{%- else -%}", "    {%- set first_user_prefix = \"\" -%}", "    {%- set loop_messages = messages -%}", "{%- endif -%}",
           "{%- for message in loop_messages -%}", "    {%- if (message['role'] == 'assistant') -%}", "        {%- set role = \"model\" -%}", "    {%- else -%}", "        {%- set role = message['role'] -%}", "    {%- endif -%}",
           "    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}", "    {%- if message['content'] is string -%}", "        {{ message['content'] | trim }}",
           "    {%- elif message['content'] is iterable -%}", "        {%- for item in message['content'] -%}", "            {%- if item['type'] == 'image' -%}", "                {{ '<start_of_image>' }}",
           "            {%- elif item['type'] == 'text' -%}", "                {{ item['text'] | trim }}", "            {%- endif -%}", "        {%- endfor -%}", "    {%- else -%}",
           "        {{ raise_exception(\"Invalid content type\") }}", "    {%- endif -%}", "    {{ '<end_of_turn>\n' }}", "{%- endfor -%}", "{%- if add_generation_prompt -%}", "    {{'<start_of_turn>model\n'}}", "{%- endif -%}", "")

PHI3 = "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
PHI4 = "{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>'}}{% generation %}{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
DEEPSEEK = ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}"
            "{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}"
            "{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}"
            "{%- if message['role'] == 'assistant' and 'tool_calls' not in message %}{%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}"
            "{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<｜tool▁outputs▁begin｜>' + message['content']}}{%- set ns.is_output_first = false %}{%- else %}{{'\n' + message['content']}}{%- endif %}{%- endif %}{%- endfor -%}"
            "{% if ns.is_tool %}{{'<｜tool▁outputs▁end｜>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}{% endif %}")
ZEPHYR = "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
COMMANDR = T("{{ bos_token }}{%- macro document(doc, n=0) -%}", "Document {{ n }}: {{ doc.title | default('untitled', true) }}", "{%- endmacro -%}",
             "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}{% set system_message = 'x' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}",
             "{% if system_message != false %}{{ '<|START|><|SYSTEM|>' + system_message + '<|END|>' }}{% endif %}",
             "{% for d in documents or [] %}{{ document(d, n=loop.index) }}", "{% endfor %}",
             "{% for message in loop_messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}{{ '<|START|><|USER|>' + content.strip() + '<|END|>' }}{% elif message['role'] == 'assistant' %}{{ '<|START|><|BOT|>'  + content.strip() + '<|END|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START|><|BOT|>' }}{% endif %}")
HERMES = T("{%- macro json_to_python_type(json_spec) %}",
           "{%- set basic_type_map = {", "    \"string\": \"str\",", "    \"number\": \"float\",", "    \"integer\": \"int\",", "    \"boolean\": \"bool\"", "} %}", "",
           "{%- if basic_type_map[json_spec.type] is defined %}", "    {{- basic_type_map[json_spec.type] }}",
           "{%- elif json_spec.type == \"array\" %}", "    {{- \"list[\" +  json_to_python_type(json_spec|items|selectattr(0, 'eq', 'items')|map('last')|first) + \"]\"}}",
           "{%- elif json_spec.type == \"object\" %}", "    {%- if json_spec.additionalProperties is defined %}", "        {{- \"dict[str, \" + json_to_python_type(json_spec.additionalProperties) + ']'}}", "    {%- else %}", "        {{- \"dict\" }}", "    {%- endif %}",
           "{%- elif json_spec.type is iterable and json_spec.type is not string %}", "    {{- \"Union[\" }}", "    {%- for t in json_spec.type %}", "      {{- json_to_python_type({\"type\": t}) }}", "      {%- if not loop.last %}", "        {{- \",\" }}", "    {%- endif %}", "    {%- endfor %}", "    {{- \"]\" }}",
           "{%- else %}", "    {{- \"Any\" }}", "{%- endif %}", "{%- endmacro %}", "",
           "{%- for tool in tools or [] %}", "    {%- if tool.function is defined %}", "        {%- set tool = tool.function %}", "    {%- endif %}",
           "    {{- '{\"type\": \"function\", \"function\": ' }}", "    {{- '{\"name\": \"' + tool.name + '\", ' }}", "    {{- '\"description\": \"' + tool.name + '(' }}",
           "    {%- for param_name, param_fields in tool.parameters.properties|items %}", "        {{- param_name + \": \" + json_to_python_type(param_fields) }}", "        {%- if not loop.last %}", "            {{- \", \" }}", "        {%- endif %}", "    {%- endfor %}",
           "    {{- \") - \" + tool.description + \"\\n\\n\" }}", "    {%- for param_name, param_fields in tool.parameters.properties|items %}",
           "        {%- if loop.first %}", "            {{- \"    Args:\\n\" }}", "        {%- endif %}", "        {{- \"        \" + param_name + \"(\" + json_to_python_type(param_fields) + \"): \" + param_fields.description|default('')|trim }}", "    {%- endfor %}",
           "    {{- '\", \"parameters\": ' }}", "    {%- if tool.parameters.properties | length == 0 %}", "        {{- \"{}\" }}", "    {%- else %}", "        {{- tool.parameters|tojson }}", "    {%- endif %}", "    {{- \"}\" }}", "    {%- if not loop.last %}", "        {{- \"\\n\" }}", "    {%- endif %}",
           "{%- endfor %}", "{%- for message in messages %}{{- '<|im_start|>' ~ message.role ~ '\\n' ~ (message.content if message.content is string else message.content | map(attribute='type') | join(', ')) ~ '<|im_end|>\\n' }}{% endfor %}")
ALPACA = T("{% for m in messages -%}", "  {% if m.role == 'user' %}### Instruction:", "{{ m.content | indent(2) }}", "", "  {% elif m.role == 'assistant' %}### Response:", "{{ m.content | indent(width=4, first=true) }}", "", "  {% else %}", "{{ m.content | upper }}", "  {% endif %}", "{% endfor %}", "{% if add_generation_prompt %}### Response:{{ '\\n' }}{% endif %}")
WHITESPACE = T("  {% if true %}  ", "    a", "  {%- endif -%}   ", "b", "  {%+ if true %}", "c", "  {%+ endif +%}", "d {# note #}", "  {# alone #}", "e", "{#- eats #}", "\tf {{- ' g ' -}} \n h", "{% raw %}{{ not }} {% this %}{% endraw %}", "  {%- raw -%}  x  {%- endraw -%}  ", "{{ 'i' }}", "", "{% for i in range(3) %}", "  {{ i }}", "{% endfor %}", "", "")
INTERN = "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' ~ message['role'] ~ '\n' ~ message['content'] ~ '<|im_end|>' ~ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
IDEFICS = "{% for message in messages %}{{message['role'].capitalize()}}{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
GPT_OSS = T("{%- macro render_type(spec, required=[]) -%}", "{%- if spec.type == 'array' -%}{%- if spec['items'] -%}{{ render_type(spec['items']) }}[]{%- else -%}any[]{%- endif -%}",
            "{%- elif spec.enum is defined -%}{%- for e in spec.enum -%}\"{{ e }}\"{{ ' | ' if not loop.last }}{%- endfor -%}",
            "{%- elif spec.type is string -%}{{ {'integer': 'number', 'boolean': 'boolean'}.get(spec.type, spec.type) }}{%- else -%}any{%- endif -%}", "{%- endmacro -%}",
            "<|start|>system<|message|>Date: {{ strftime_now(\"%Y-%m-%d\") }}", "",
            "{% if tools -%}", "namespace functions {", "", "{% for tool in tools %}{% set tool = tool.function %}// {{ tool.description }}", "type {{ tool.name }} = (_: {", "{% for name, spec in tool.parameters.properties.items() %}", "{% if spec.description %}// {{ spec.description }}", "{% endif %}",
            "{{ name }}{{ '?' if name not in (tool.parameters.required or []) }}: {{ render_type(spec, tool.parameters.required) }}{% if spec.default is defined %}, // default: {{ spec.default | tojson }}{% else %},{% endif +%}", "{% endfor %}", "}) => any;", "", "{% endfor %}}", "{%- endif %}<|end|>",
            "{%- for message in messages -%}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>{%- endfor -%}", "{% if add_generation_prompt %}<|start|>assistant{% endif %}")

TEMPLATES = dict(chatml=CHATML, smol=SMOL, qwen_vl=QWEN_VL, qwen_tools=QWEN_TOOLS, qwen3=QWEN3, llama2=LLAMA2, llama3=LLAMA3, llama31=LLAMA31, mllama=MLLAMA, llava=LLAVA, vicuna=VICUNA,
                 mistral=MISTRAL, gemma=GEMMA, gemma3=GEMMA3, phi3=PHI3, phi4=PHI4, deepseek=DEEPSEEK, zephyr=ZEPHYR, commandr=COMMANDR, hermes=HERMES, alpaca=ALPACA,
                 whitespace=WHITESPACE, intern=INTERN, idefics=IDEFICS, gpt_oss=GPT_OSS)

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather for a place <now>", "parameters": {"type": "object", "properties": {
    "place": {"type": "string", "description": "City & \"country\""}, "unit": {"type": "string", "enum": ["C", "F"], "default": "C"}, "days": {"type": ["integer", "number"]},
    "tags": {"type": "array", "items": {"type": "string"}}, "extra": {"type": "object", "additionalProperties": {"type": "number"}}}, "required": ["place"]}}},
    {"type": "function", "function": {"name": "zählen", "description": "Counts 你好", "parameters": {"type": "object", "properties": {}}}}]


def conversations():
    u, a, s, t = (lambda r: lambda c, **k: dict(role=r, content=c, **k))("user"), (lambda c, **k: dict(role="assistant", content=c, **k)), (lambda c: dict(role="system", content=c)), (lambda c, **k: dict(role="tool", content=c, **k))
    call = [{"id": "abcdef123", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Köln", "days": 2, "x": [1.5, None, True]}}}]
    img, vid, txt = {"type": "image"}, {"type": "video", "video": "f.mp4"}, lambda x: {"type": "text", "text": x}
    yield dict(messages=[u("Hello")], add_generation_prompt=True)
    yield dict(messages=[s("Be brief.  "), u("  Hi there\n"), a(" Hello! "), u("And?")], add_generation_prompt=True)
    yield dict(messages=[u("Was ist 2<3 & 'x'? 你好 😀"), a("<think>\nhm\n</think>\n\nja"), u("gut"), a("ok")])
    yield dict(messages=[u("Weather?"), a("", tool_calls=call), t("12 C", tool_call_id="abcdef123"), a("It is 12 C.")], tools=TOOLS, add_generation_prompt=True)
    yield dict(messages=[s("Tools."), u("Weather?"), a("Looking.", tool_calls=call), t("a"), t("b"), u("so?")], tools=TOOLS, add_generation_prompt=False, tools_in_user_message=False)
    yield dict(messages=[u([img, txt("What is this?")])], add_generation_prompt=True)
    yield dict(messages=[u([txt("First "), img, img, txt("and"), vid, txt("?")]), a([txt("A cat.")]), u([txt("Sure?")])], add_generation_prompt=True, add_vision_id=True)
    yield dict(messages=[s([txt("You see.")]), u([img, txt(" x ")])], add_generation_prompt=True)
    yield dict(messages=[a("I start"), u("no")], add_generation_prompt=True)
    yield dict(messages=[u("Line one\nline two\n\nline four"), a("a\nb")], documents=[{"title": "T"}, {"text": "no title"}], add_generation_prompt=True, enable_thinking=False)
    yield dict(messages=[], add_generation_prompt=True)


V = dict(x=5, y=-3, f=2.5, s="Hello World", e="", n=None, l=[3, 1, 2], d={"b": 1, "a": [1, {"k": "v"}], "items": "own"}, u="äöü ß 你好 😀", ws="  pad \n", t=True,
         people=[{"name": "Bob", "age": 30, "tags": ["x"]}, {"name": "alice", "age": 25}, {"name": "Carl", "age": 30, "tags": []}], lines="one\ntwo\n\nthree\n")

EXPRESSIONS = r"""
1 + 2 * 3 - 4 // 3 % 2 ** 3
-2 ** 2
2 ** 3 ** 2
2 ** -1
7 // -2, 7 % -2, -7 // 2, -7 % 3
7 / 2, 8 / 2, 2.0 // 0.3, -7.5 % 2
1e3, 1.5e-7, 1e16, 123456789012345.0, 1e22, 0.1 + 0.2, 100.0, 1_000
1 < 2 < 3, 1 < 2 > 3, 1 == 1.0, true == 1, 'a' < 'b', [1, 2] < [1, 3]
not x and y or n, not not x, x and 0 or 'z'
'a' ~ 1 ~ none ~ true ~ 2.0 ~ [1, 'b'] ~ undefinedname
x if t else y, ('a' if not t), 'p' if n else 'q' if e else 'r'
s[0], s[-1], s[1:4], s[::-1], s[::2], s[-5:], s[:-6], s[10:2], s[100:], u[1], u[-1], u[3:7]
l[0], l[-1], l[5] is defined, l[1:], l[::-1], l[:2], (1,2,3)[1:], (1,), ()
d.b, d['b'], d.a[1].k, d.a.1.k, d['items'], d.zzz is defined, d.get('b'), d.get('q', 'dflt'), d.get('q')
d.items() | list, d.keys() | list, d.values() | list, d | length, d | list
d, l, [n, t, 1.0, 'it''s', "q\"uote", 'new\nline\t\\'], {'a': {'b': ()}}, "it's"
s.upper(), s.lower(), s.title(), s.swapcase(), s.capitalize(), 'they\'re bill-of (x)'.title()
s.split(), s.split('o'), s.split('o', 1), s.rsplit('o', 1), '  a  b '.split(), 'a,b,,c'.split(','), 'a b c'.split(None, 1), lines.splitlines(), lines.splitlines(true)
s.startswith('He'), s.endswith('ld'), s.startswith(('x', 'H')), s.find('o'), s.rfind('o'), s.find('zz'), s.count('l'), s.index('W')
s.replace('l', 'L'), s.replace('l', 'L', 1), ws.strip(), ws.lstrip(), ws.rstrip(), 'xxaxx'.strip('x'), 'abc'.lstrip('ab'), 'abcba'.rstrip('ab'), 'abc'.replace('', '-')
'a'.isalpha(), '1'.isdigit(), 'a1'.isalnum(), ' '.isspace(), 'A'.isupper(), 'a'.islower(), ''.isdigit(), 'Ab'.isupper()
'-'.join(['a', 'b']), 'x'.center(5), 'x'.ljust(3) ~ '|', 'x'.rjust(3), 'ab'.center(5, '*'), 'a=b=c'.partition('=')
'abc'.removeprefix('a'), 'abc'.removesuffix('c'), '{} and {1} {x} {{}}'.format(1, 2, x=3) if false else 'ok'
u | length, u | upper, u | lower, u | capitalize, u | title, u | reverse, u | list
l | sort, l | sort(reverse=true), l | sum, l | min, l | max, l | first, l | last, l | join(', '), l | length, l | reverse | list, [] | first is defined
people | map(attribute='name') | list, people | map(attribute='tags', default='none') | list, people | selectattr('age', 'equalto', 30) | map(attribute='name') | join('+')
people | rejectattr('age', 'gt', 26) | list | length, people | selectattr('tags') | list | length, people | selectattr('tags', 'defined') | list | length, people | sort(attribute='name') | map(attribute='name') | list
people | map(attribute='name') | map('upper') | list, [1, 2, 3, 4] | select('odd') | list, [1, 2, 3] | reject('equalto', 2) | list, [0, 1, '', 'a'] | select | list, ['b', 'A', 'c'] | sort, ['b', 'A'] | sort(case_sensitive=true)
n | default('D'), e | default('D'), e | default('D', true), zzz | default('D'), zzz | default, zzz.b | default('never') if false else 'skip', zzz | d('x')
'12' | int, '1.9' | int, 'x' | int, 'x' | int(7), 3.99 | int, '0x1f' | int(base=16), '2.5' | float, 'q' | float(1.5), true | int, n | int
2.5 | round, 3.5 | round, 2.567 | round(2), 2.1 | round(method='ceil'), 5 | round, -3 | abs, 2.675 | round(2)
lines | indent, lines | indent(2, true), lines | indent(3, blank=true), 'x' | indent(2, first=true), lines | indent(width='>>')
d | tojson, d | tojson(indent=2), u | tojson, u | tojson(ensure_ascii=true), [1.0, none, true, '<&>\'"\n\u0001\x7f'] | tojson, {} | tojson(indent=2), [] | tojson, {'b':1,'a':2} | tojson(sort_keys=true), [1,[2]] | tojson(separators=(',', ':'))
{1: 'a', true: 'b', none: 'c', 2.5: 'd'} | tojson, (1, 2) | tojson, 1e100 | tojson
x is number, f is float, x is integer, t is boolean, t is integer, s is string, d is mapping, l is sequence, s is iterable, n is none, zzz is undefined, x is odd, 4 is even, 9 is divisibleby 3, x is eq 5, x is not none
l is iterable, d is iterable, x is iterable, s is sequence, x is sameas 5, n is sameas none, true is true, 1 is true, false is false, 'a' is lower, 'A' is upper, x is in [5, 6], x is gt 3, x is lessthan 3, x is callable, s.upper is callable
'ell' in s, 3 in l, 9 not in l, 'b' in d, 'q' not in d, 'a' in 'b', '' in s, 1 in (1, 2), 'x' in zzz
range(5) | list, range(2, 8, 3) | list, range(5, 0, -2) | list, range(0) | list
dict(a=1, b=2), dict({'x': 1}, y=2), namespace(a=1).a, [1] + [2], 'ab' * 3, [0] * 2, 2 * 'x', (1,) + (2,)
'%s is %d, %.2f %r%%' % ('a', 5, 1.234, 'q'), '%s' % 5, '%s-%s' | format(1, 'b')
s | truncate(8), s | truncate(8, true, '..', 0), 'foo bar baz qux' | truncate(9), s | wordcount, '<a href="x">' | escape ~ '', 'a b&c/ü' | urlencode, s | center(15) ~ '|'
d | dictsort, {'b': 1, 'A': 2} | dictsort, {'b': 1, 'A': 2} | dictsort(by='value', reverse=true), [1, 2, 1, 'a', 'A'] | unique | list, [1, 2, 3, 4, 5] | batch(2) | map('list') | list, people | sum(attribute='age'), people | max(attribute='age')
"a" "b" 'c', 'tab\tq\x41\u00e9\101', "\\n", 'a\qb', '\\', "l1
l2"
[1, 2, 3,], {'a': 1,}, (1, 2,), [[], {}], {'k': [1, {'z': (1,)}]}
x.nope is defined, s.nope is defined, l.nope is defined, n.a is defined, (n or {}).a is defined
-x, +x, - x ** 2, -(x), not x == 5, (x == 5) | string, x | string ~ '!', -5 | abs
'a' if x > 3 and y < 0 else 'b'
messages[0].role if messages else 'none', messages[-1]['content'] if messages is defined and messages else '-'
1.0 * 3, 10 ** 15, 10.0 ** 15, 3 * 1.1, 1 / 3, 2 / 3, 1e-5, 1e-4, 12345678.9, 5e-324, 1.7976931348623157e308
l.index(1), l.count(3), 'x' ~ (l | join) ~ 'y', l | join('-') | length, (l | first) + 1, [l, l] | map('first') | list
"é" == "é", 'a\0b' | length, '\U0001F600', "\x7f\u200b" | string, ['\x7f\u200b\xa0'] 
""".strip("\n")

SNIPPETS = [
    "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}-{{ b }};{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for ch in u %}[{{ ch }}]{% endfor %}",
    "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.previtem }}{{ loop.nextitem }}|{% endfor %}",
    "{% for i in l if i > 1 %}{{ i }}{{ loop.length }}{% else %}none{% endfor %}{% for i in l if i > 9 %}x{% else %}none{% endfor %}",
    "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% elif i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(i) %}{{ loop.cycle('a', 'b') }}{{ i }}{{ j }}{% else %}empty{% endfor %}{% endfor %}",
    "{% for p in people %}{% if loop.changed(p.age) %}new {{ p.age }} {% endif %}{% endfor %}",
    "{% set v = 1 %}{% for i in l %}{% set v = v + i %}{{ v }},{% endfor %}{{ v }}",
    "{% set ns = namespace(v=1, l=[]) %}{% for i in l %}{% set ns.v = ns.v + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.v }}{{ ns.l }}",
    "{% if x %}{% set inner = 'yes' %}{% endif %}{{ inner }}{% if n %}{% set other = 1 %}{% endif %}{{ other is defined }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = a, b %}{{ c }}{% set (p, q) = 'xy' %}{{ p }}{{ q }}",
    "{% set block %}  text {{ x }}\n{% endset %}[{{ block }}]{% set b2 | upper | trim %} abc {% endset %}[{{ b2 }}]",
    "{% macro m(a, b=2, c=a) %}{{ a }}/{{ b }}/{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(c=9, a=8) }} {{ m() }}",
    "{% macro outer() %}<{{ caller() }}>{% endmacro %}{% call outer() %}in {{ x }}{% endcall %}{% macro l2(items) %}{% for i in items %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) l2(l) %}({{ i }}){% endcall %}",
    "{% macro va(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ va(1, 2, 3, k=4) }}",
    "{% macro f(n) %}{{ n if n < 2 else (f(n - 1) | int + f(n - 2) | int) }}{% endmacro %}{{ f(10) }}",
    "{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a', 'b') | indent(2) %}a\na{% endfilter %}",
    "{% with a = 1, b = x %}{{ a }}{{ b }}{% set a = 5 %}{{ a }}{% endwith %}{{ a is defined }}",
    "{% for node in [{'v': 1, 'c': [{'v': 2, 'c': []}, {'v': 3, 'c': [{'v': 4, 'c': []}]}]}] recursive %}{{ loop.depth }}:{{ node.v }}[{{ loop(node.c) }}]{% endfor %}",
    "{% generation %}gen {{ x }}{% endgeneration %}{% set z = 1 %}{% generation %}{% set z = 2 %}{% endgeneration %}{{ z }}",
    "a\r\nb\rc\n{% if true %}\r\nd{% endif %}\r\n",
    "{{ '{{' }} {{ \"%}\" }} {{ {'a': {'b': 1}} }} {{ '#}' }} { { } } {% raw %}{% if %}{% endraw %}",
    "{%- for i in l -%} {{ i }} {%- endfor -%} end",
    "x  {%- if true -%}  y  {%- endif %}  z",
    "   {% set q = 1 %}   \n   {{ q }}   \n   {% if q %}   \n text \n   {% endif %}\n tail",
    "{# multi\nline #}\n{#- a -#}  b {#+ c +#}\nd",
    "{{ x }}\n", "{{ x }}\n\n", "\n{{ x }}", "{% if x %}\n\nA\n{% endif %}\n\nB", "{{ undefinedname }}|{{ n }}|{{ t }}|{{ f }}|{{ l }}|{{ d }}",
    "{{ strftime_now('%Y-%m-%d %H:%M %A %j %%') }}",
    "{% set loop_messages = l %}{% for i in loop_messages %}{% set i = i * 2 %}{{ i }}{% endfor %}",
    "{% for i in [1,2] %}{{ i }}{% endfor %}{{ i is defined }}{% for x in [9] %}{{ x }}{% endfor %}{{ x }}",
    "{% set s = 'shadow' %}{{ s }}{% macro g() %}{{ s }}{{ later }}{% endmacro %}{% set later = 'L' %}{{ g() }}",
    "{{ people[0].name ~ people[1]['name'] }}{{ people[-1].tags }}{{ people[5] }}", "{{ (x > 3) ~ (x, y) ~ [] }}", "{{ loop is defined }}{% for a in [1] %}{{ loop is defined }}{% endfor %}",
]

ERRORS = [
    "{{ raise_exception('stop: ' ~ x) }}", "{{ zzz.a }}", "{{ zzz['a'] }}", "{{ zzz + 1 }}", "{{ zzz() }}", "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 5 % 0 }}", "{{ n[0].a }}", "{{ x() }}", "{{ 1 < 'a' }}", "{{ n < 1 }}",
    "{% for i in 5 %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{{ 1 in 5 }}", "{{ l.append(1) }}", "{{ d.update({}) }}", "{{ d.pop('b') }}", "{% set d.q = 1 %}", "{{ zzz | tojson }}", "{{ x | nofilter }}", "{{ x is notest }}",
    "{% nosuch %}", "{{ x", "{% if x %}", "{% endif %}", "{% for %}{% endfor %}", "{{ 'abc }}", "{# open", "{{ (1 }}", "{{ [1, }}", "{{ }}", "{% if %}{% endif %}", "{{ a b }}", "{% set x %}", "{% set 5 = 1 %}", "{% macro %}{% endmacro %}", "{{ x | }}", "{{ x. }}", "{{ 1 ] }}", "{% raw %}x", "{% else %}",
    "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{{ ''.__class__ }}{{ ''.__class__.__mro__ }}", "{{ namespace(_x=1) if false else zzz.q }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(b=1) }}", "{{ [1] | join(5).x.y }}",
    "{{ range(1000000) | list | length }}", "{{ '' | first | upper + 1 }}", "{{ 'a'.index('b') }}", "{{ l | map('nope') | list }}", "{{ ?}}", "{{ x ; }}", "{% for i in l %}{% endif %}{% endfor %}", "{{ 'x' % 5 % }}", "{{ not }}",
]


def compile_fixed(text):
    t = _compile_jinja_template(text)
    t.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(f)
    return t


def render(text, variables):
    try:
        return {"expected": compile_fixed(text).render(**copy.deepcopy(variables))}
    except jinja2.exceptions.TemplateError as e:
        return {"error": str(e)[:200], "raised": type(e) is jinja2.exceptions.TemplateError}
    except Exception as e:
        return {"error": type(e).__name__ + ": " + str(e)[:200]}


def main():
    out = {"vars": V, "now": NOW, "templates": [], "expressions": [], "snippets": [], "errors": []}
    convs = list(conversations())
    for name, text in TEMPLATES.items():
        rows = []
        for c in convs:
            rows.append(render(text, dict(c, bos_token="<s>", eos_token="</s>")))
        out["templates"].append({"name": name, "template": text, "rows": rows})
        print(name, sum("expected" in r for r in rows), "of", len(rows))
    out["conversations"] = [dict(c, bos_token="<s>", eos_token="</s>") for c in convs]
    import re
    for line in re.split(r"\n(?!l2)", EXPRESSIONS):
        text = "{{ (" + line + ",) }}"
        r = render(text, V)
        if "error" in r:
            print("expression", line[:60], r)
        out["expressions"].append({"template": text, **r})
    for text in SNIPPETS:
        r = render(text, V)
        if "error" in r:
            print("snippet", text[:60], r)
        out["snippets"].append({"template": text, **r})
    for text in ERRORS:
        r = render(text, V)
        if "expected" in r:
            print("no error:", text, repr(r["expected"][:60]))
        out["errors"].append({"template": text, **r})
    with open(os.path.join(OUT, "templates.json"), "w") as f:
        json.dump(out, f, ensure_ascii=True, indent=0, separators=(",", ":"))
        f.write("\n")
    with open(os.path.join(OUT, "VERSIONS.templates"), "w") as f:
        f.write("jinja2 %s\ntransformers %s\n" % (jinja2.__version__, transformers.__version__))


if __name__ == "__main__":
    main()
