"""Micro-kernels of matrix products: the inner loops, one file per instruction set and type.

A tile's rows come as (output row, first element of a), with the first element of its weights; a micro-kernel gives per row the
sums in vectors of four. A target's file lists the names that it wants, most wanted first; the first of the layer's type that
accepts it computes it. A new one is a file here, a line in MICROKERNELS (targets/capabilities.py), its use in gemm.py and its
name in the targets' files.

    qs8_neon_winograd_4x4c32   ADD x 2, SMULL + SMLAL2 + SADALP, 32 k: half the multiplications where |a| + |w| <= 127
    qs8_neon_mlal_4x4c16       SMULL + SMLAL2 + SADALP, 16 k: any int8 but weights of -128
    qs8_neon_sdot_8x8c4        SDOT by element, 4 k of four columns: any int8 (ARMv8.2's dot products)
    qs8_portable_4x4c16        the same sums from sign-extended int16 products: any int8, any vector unit
    f32_outer_product          FMLA by element, 16 sums
    f16_neon_fmla_4x32         FMLA by element on eight halves, for eights of channels and columns (ARMv8.2)
    f16_outer_product          the same with halves widened (FCVTL): FP16 storage, FP32 arithmetic
"""
