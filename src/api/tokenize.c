/* Text to ids and back. */
#include "api/api.h"
#include "text/tokenizer.h"

struct sq_text_codec {
    sq_tokenizer *tokenizer;
    sq_encoder *encoder;
    sq_ids ids;
    sq_buf text;
};

sq_status sq_text_codec_open(sq_text_codec **out, const char *path, sq_error *err) {
    sq_status st;
    SQ_TRY(sq_need_arg(out, "out", err));
    *out = NULL;
    SQ_TRY(sq_need_arg(path, "path", err));
    *out = sq_alloc(1, sizeof **out, "a tokenizer", err);
    if (*out == NULL) {
        return SQ_ENOMEM;
    }
    st = sq_tokenizer_open(&(*out)->tokenizer, path, err);
    if (st == SQ_OK) {
        st = sq_encoder_open(&(*out)->encoder, (*out)->tokenizer, err);
    }
    if (st != SQ_OK) {
        sq_text_codec_close(out);
    }
fail:
    return st;
}

void sq_text_codec_close(sq_text_codec **codec) {
    if (codec != NULL && *codec != NULL) {
        sq_encoder_close(&(*codec)->encoder);
        sq_tokenizer_close(&(*codec)->tokenizer);
        sq_free((*codec)->ids.data);
        sq_buf_free(&(*codec)->text);
        sq_free(*codec);
        *codec = NULL;
    }
}

sq_status sq_text_codec_encode(sq_text_codec *c, const char *text, size_t len, const int32_t **ids,
                               size_t *n, sq_error *err) {
    sq_status st;
    SQ_TRY(sq_need_arg(c, "codec", err));
    SQ_TRY(sq_need_arg(text, "text", err));
    SQ_TRY(sq_need_arg(ids, "ids", err));
    SQ_TRY(sq_need_arg(n, "n", err));
    c->ids.len = 0;
    st = sq_encoder_encode(c->encoder, text, len, 0, 0, &c->ids, err);
    *ids = c->ids.data;
    *n = st == SQ_OK ? c->ids.len : 0;
fail:
    return st;
}

sq_status sq_text_codec_decode(sq_text_codec *c, const int32_t *ids, size_t n, const char **text,
                               size_t *len, sq_error *err) {
    sq_status st;
    SQ_TRY(sq_need_arg(c, "codec", err));
    SQ_TRY(n == 0 ? SQ_OK : sq_need_arg(ids, "ids", err));
    SQ_TRY(sq_need_arg(text, "text", err));
    SQ_TRY(sq_need_arg(len, "len", err));
    c->text.len = 0;
    c->text.failed = 0;
    st = sq_tokenizer_decode(c->tokenizer, ids, n, 0, &c->text, err);
    *text = c->text.len > 0 ? c->text.data : "";
    *len = st == SQ_OK ? c->text.len : 0;
fail:
    return st;
}
