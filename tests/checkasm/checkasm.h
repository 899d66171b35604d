/* What the files of checkasm share. */
#ifndef CHECKASM_H
#define CHECKASM_H

#include "kernels/internal.h"

/* The table under test: the one that sq_matmul uses too. */
extern const sq_kernels *isa;
float uniform(void); /* [-1, 1) */
/* Counts a check; a failure is printed with its size n, error and tolerance. */
void verdict(const char *name, int64_t n, int ok, double err, double tol);
/* Products with rounded inputs (rounded.c). */
void test_rounded(const sq_kernels *ref);
/* Products of bf16 pairs (bf16.c). */
void test_bf16(void);
/* Tables that are tested beside the CPU's own. */
enum { MOST_MORE = 2 };
size_t more_tables(const sq_kernels **tables);
/* Attention over the KV cache (kv.c). */
void test_kv(const sq_kernels *ref);
/* Times the table's kernels and prints medians. */
void bench(void);

#endif
