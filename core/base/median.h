/* The middle of a few measurements. */
#ifndef HEARTH_CORE_BASE_MEDIAN_H
#define HEARTH_CORE_BASE_MEDIAN_H

/* Sorts values[n], n >= 1, and returns the middle one; of an even number the upper. */
double ht_median(double *values, int n);

#endif
