//! The vector instructions that a processor has, without other results for it.

/// Numbers that are summed side by side. Fixed, so that sums are the same on every processor.
pub(crate) const LANES: usize = 16;

/// Defines a function that runs compiled for AVX2 where there is AVX2, together with all `#[inline(always)]` functions that it
/// calls. Operations and their order stay, and so do the bits of the result.
macro_rules! vectorised {
    (fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)? $body:block) => {
        fn $name($($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            fn plain($($argument: $type),*) $(-> $output)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn with_avx2($($argument: $type),*) $(-> $output)? {
                    plain($($argument),*)
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: The processor has AVX2.
                    #[expect(unsafe_code, reason = "the only way to use instructions that the compiler cannot count on")]
                    return unsafe { with_avx2($($argument),*) };
                }
            }
            plain($($argument),*)
        }
    };
}

pub(crate) use vectorised;
