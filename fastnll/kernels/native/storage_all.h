/* One storage dtype, from loads to entry points. */
#include "storage.h"
#include "rows.h"
#include "general.h"
#include "lanes.h"
#include "storage_kernels.h"
