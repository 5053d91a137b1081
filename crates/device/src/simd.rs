//! The vector instructions that a processor has, without other results for it.

/// Numbers that are summed side by side. Fixed, so that sums are the same on every processor.
pub(crate) const LANES: usize = 16;

/// Runs `work` compiled for AVX2 where there is AVX2. What it inlines is compiled likewise; operations and their order stay, and
/// so do the bits of the result.
#[inline(always)]
pub(crate) fn vectorised<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn with_avx2<T>(work: impl FnOnce() -> T) -> T {
            work()
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: The processor has AVX2.
            #[expect(unsafe_code, reason = "the only way to use instructions that the compiler cannot count on")]
            return unsafe { with_avx2(work) };
        }
    }
    work()
}
