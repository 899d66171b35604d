/* An architecture without rows of its own: the C reference alone. */
#include "kernels/internal.h"

const char *const sq_cpu_flag_names[] = {NULL};
const sq_isa sq_isas[] = {{NULL, 0, NULL}};

unsigned sq_cpu_detect(void) { return 0; }
