// Sizes of the inner loops, by the instruction set that is compiled for, and what the system offers to large arrays.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

// Degrees are taken in blocks of at least so many units of the first hidden layer, or of so many degrees.
#define BLOCK_UNITS 16
#define BLOCK_DEGREES 16

// Weights are asked for so many inputs before they are used: the processor itself foresees none beyond a page.
#define AHEAD 32

// Registers of sums that the inner loop keeps: PANEL units by VECTORS registers of rows.
#if defined(__AVX512F__)
#define REGISTER 64
#define PANEL 6
#define VECTORS 4
#elif defined(__aarch64__)
#define REGISTER 16
#define PANEL 6
#define VECTORS 4
#elif defined(__AVX__)
#define REGISTER 32
#define PANEL 6
#define VECTORS 2
#else
#define REGISTER 16
#define PANEL 4
#define VECTORS 2
#endif
