/* Status codes and error text, shared by every call of the library. */
#ifndef SQUINT_STATUS_H
#define SQUINT_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SQ_API __attribute__((visibility("default")))
#else
#define SQ_API
#endif

/* 0 is success, everything else is negative; the values are pinned. */
typedef enum sq_status {
    SQ_OK = 0,
    SQ_EARG = -1,         /* an argument or option does not make sense */
    SQ_EFORMAT = -2,      /* an input file is malformed, truncated or inconsistent */
    SQ_EUNSUPPORTED = -3, /* well-formed input that this version does not handle */
    SQ_EIO = -4,          /* the operating system refused a read or write */
    SQ_ENOMEM = -5,       /* memory or the memory limit is exhausted */
    SQ_ENOSPC = -6,       /* the disk is full */
    SQ_ELIMIT = -7,       /* the model's position limit (context) is reached */
    SQ_ECHECK = -8,       /* a verification did not hold */
    SQ_ECANCELLED = -9,   /* the caller's callback asked to stop */
    SQ_EINTERNAL = -10    /* a defect in Squint */
} sq_status;

/* What went wrong. `text` reads "what; got …, wanted …"; `hint` is the next command to try, or
 * empty. Every function takes a nullable sq_error and fills it only on failure. */
typedef struct sq_error {
    sq_status status;
    char text[640];
    char hint[256];
} sq_error;

#ifdef __cplusplus
}
#endif
#endif
