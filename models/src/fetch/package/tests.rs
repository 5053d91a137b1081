#![allow(clippy::unwrap_used)]
use cenote_base::ErrorKind;

use super::*;
use crate::fetch::archive::tests::zip_of;

fn package(sha256: &str) -> Package {
    Package::new(PackageRegistry::Pypi, "made-here", "1.0", sha256)
}

/// Makes a package whose archive is in the cache, as if it had been fetched.
fn cached(cache: &Path) -> Package {
    let source = cache.join("source.zip");
    zip_of(&source, &[("pkg/model.onnx", "weights"), ("pkg/readme", "text")]);
    let package = package(&digest::of_file(&source).unwrap());
    let archive = package.archive_path(cache);
    fs::create_dir_all(archive.parent().unwrap()).unwrap();
    fs::rename(source, archive).unwrap();
    package
}

#[test]
fn members_of_a_cached_package_need_no_registry() {
    let cache = tempfile::tempdir().unwrap();
    let package = cached(cache.path());
    assert!(package.fetched(cache.path()).is_some());
    let member = package.member(cache.path(), "pkg/model.onnx").unwrap();
    assert_eq!(fs::read_to_string(&member).unwrap(), "weights");
    assert_eq!(package.member(cache.path(), "pkg/model.onnx").unwrap(), member);
    assert_eq!(fs::read_to_string(package.unpacked(cache.path()).unwrap().join("pkg/readme")).unwrap(), "text");
    assert_eq!(package.member(cache.path(), "pkg/none").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(package.member(cache.path(), "../x").unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn names_that_are_options_or_paths_and_short_digests_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    let digest = "0".repeat(64);
    for (name, version, sha256) in [
        ("--index", "1", digest.as_str()),
        ("a b", "1", &digest),
        ("", "1", &digest),
        ("a/../../b", "1", &digest),
        ("a", "../1", &digest),
        ("a", "1", "abc"),
    ] {
        let error = Package::new(PackageRegistry::Npm, name, version, sha256).fetch(cache.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name} {version} {sha256}");
    }
}

#[test]
fn clients_are_called_with_exact_versions() {
    let line = |package: &Package| {
        let command = package.client(Path::new("dir"));
        command.get_args().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    };
    let mut pypi = package("").for_platform("manylinux_2_28_x86_64");
    assert!(line(&pypi).contains("--only-binary=:all: --python-version 3.12"), "{}", line(&pypi));
    pypi.platform = None;
    pypi.source_archive = true;
    assert!(line(&pypi).ends_with("--no-deps --no-binary=:all: --dest dir made-here==1.0"), "{}", line(&pypi));
    let npm = Package::new(PackageRegistry::Npm, "@a/b", "2", "");
    assert_eq!(line(&npm), "pack --silent --ignore-scripts @a/b@2");
    let debian = Package::new(PackageRegistry::Debian, "c", "1:3-1", "");
    assert_eq!(line(&debian), "download --quiet c=1:3-1");
    assert!(!npm.directory(Path::new("cache")).to_string_lossy().contains('@'));
}
