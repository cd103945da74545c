/* One storage dtype, from loads to entry points. */
#include "storage.h"
#include "emit.h"
#include "rows.h"
#include "general.h"
#include "plain.h"
#include "columns.h"
#include "lanes.h"
#include "storage_kernels.h"
