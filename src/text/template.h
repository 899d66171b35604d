/* Chat templates: the checkpoint's own Jinja template, by an interpreter without access to anything
 * but its inputs, with limits on steps and output. */
#ifndef SQ_TEXT_TEMPLATE_H
#define SQ_TEXT_TEMPLATE_H

#include <jansson.h>

#include "base/mem.h"

typedef struct sq_template sq_template;

/* Finds chat_template.jinja, chat_template.json or tokenizer_config.json's chat_template (newest
 * first) in a folder. *out is NULL with SQ_OK when the checkpoint has none. */
sq_status sq_template_open(sq_template **out, const char *dir, sq_error *err);
/* Parses a template's text; `where` names it in errors, which give line and construct. */
sq_status sq_template_parse(sq_template **out, const char *text, const char *where, sq_error *err);
void sq_template_close(sq_template **t);

/* Renders with variables = a JSON object (messages, add_generation_prompt, tools, bos_token, …) as
 * HF's apply_chat_template does (trim_blocks and lstrip_blocks on). raise_exception gives SQ_EARG.
 * An integer variable strftime_now fixes its clock: seconds since 1970, UTC. Named templates: with
 * tools that are not null "tool_use" is taken, otherwise "default". */
sq_status sq_template_render(const sq_template *t, const json_t *variables, sq_buf *out,
                             sq_error *err);

#endif
