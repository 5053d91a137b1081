#![allow(clippy::unwrap_used)]
use cenote_base::ErrorKind;

use crate::kernels::phash;
use crate::testing;

#[test]
fn a_lost_device_is_an_error_and_not_a_crash() {
    let device = testing::open();
    let pending = phash::on_device(&device, &[1; 1024]).unwrap();
    device.raw().destroy();
    // What was submitted before may have been finished.
    if let Err(error) = pending.wait() {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    let error = phash::on_device(&device, &[1; 1024]).and_then(|pending| pending.wait()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("was lost"), "{error}");
}
