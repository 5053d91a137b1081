//! Vector instructions where the processor has them, with the same results where it has not.

/// Partial sums of a loop. Their number is fixed, so that a sum is the same on every processor.
pub(crate) const LANES: usize = 16;

/// Defines a function that is also compiled for AVX2, together with all `#[inline(always)]` functions that it calls,
/// and runs that way on a processor that has it. The operations and their order are the same, and so are the bits of
/// the result.
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
                    #[expect(unsafe_code, reason = "the compiler cannot count on these instructions")]
                    return unsafe { with_avx2($($argument),*) };
                }
            }
            plain($($argument),*)
        }
    };
}

pub(crate) use vectorised;
