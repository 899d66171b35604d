/* What the two files of checkasm share. */
#ifndef CHECKASM_H
#define CHECKASM_H

#include "kernels/kernels.h"

/* The table under test: the one that sq_matmul uses too. */
extern const sq_kernels *isa;
/* Times the table's kernels and prints medians. */
void bench(void);

#endif
