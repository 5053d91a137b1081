//! Decoding a part of a JPEG without most of the work for the rest, by libjpeg-turbo's C interface: the `turbojpeg`
//! crate decodes whole pictures only.

#![expect(
    unsafe_code,
    reason = "a C library fills memory that is handed to it; each block says why that is large enough"
)]

use std::ffi::c_int;

use turbojpeg::{ScalingFactor, raw};

/// A part of a scaled picture, in pixels of the scaled picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    /// A multiple of the block width of the scaled picture.
    pub(crate) left: u32,
    pub(crate) top: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Region {
    fn bytes(self) -> usize {
        self.width as usize * self.height as usize * 3
    }
}

/// A decompressor of libjpeg-turbo.
struct Instance(raw::tjhandle);

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: the handle is owned, and is not used again.
        unsafe { raw::tj3Destroy(self.0) }
    }
}

/// Fills `pixels` with the RGB pixels of `region`, line by line. Returns `None` on any error or warning of
/// libjpeg-turbo: decoding the whole picture then tells the reason.
pub(crate) fn decode_region(
    jpeg: &[u8],
    scale: ScalingFactor,
    region: Region,
    scans_max: u32,
    pixels: &mut Vec<u8>,
) -> Option<()> {
    let number = |value: u32| c_int::try_from(value).ok();
    let factor =
        raw::tjscalingfactor { num: c_int::try_from(scale.num()).ok()?, denom: c_int::try_from(scale.denom()).ok()? };
    let part = raw::tjregion {
        x: number(region.left)?,
        y: number(region.top)?,
        w: number(region.width)?,
        h: number(region.height)?,
    };
    let pitch = number(region.width.checked_mul(3)?)?;
    pixels.resize(region.bytes(), 0);
    // SAFETY: the call takes a number and no pointer.
    let instance = Instance(unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as c_int) });
    if instance.0.is_null() || region.bytes() == 0 {
        return None;
    }
    // SAFETY: the handle is live, and `jpeg` outlives each call.
    let read = unsafe {
        raw::tj3Set(instance.0, raw::TJPARAM_TJPARAM_SCANLIMIT as c_int, number(scans_max)?) == 0
            && raw::tj3DecompressHeader(instance.0, jpeg.as_ptr(), jpeg.len() as _) == 0
            && raw::tj3SetScalingFactor(instance.0, factor) == 0
    };
    // SAFETY: as above. A region that is not inside the picture is refused; an accepted one is written as `height`
    // lines of `pitch` bytes each, which is the size of `pixels`.
    let done = unsafe {
        read && raw::tj3SetCroppingRegion(instance.0, part) == 0
            && raw::tj3Decompress8(
                instance.0,
                jpeg.as_ptr(),
                jpeg.len() as _,
                pixels.as_mut_ptr(),
                pitch,
                raw::TJPF_TJPF_RGB as c_int,
            ) == 0
    };
    done.then_some(())
}
