//! Extracting files from archives: wheels and zip files here, tarballs and Debian packages by the system's tools.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path};
use std::process::Command;

use cenote_base::{Context, Error, Result};
use zip::ZipArchive;

use super::command;

/// The format of an archive, known by its first bytes, because registries name files as they like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiveFormat {
    Zip,
    TarGz,
    Deb,
}

impl ArchiveFormat {
    /// Reads the format of `archive`.
    ///
    /// # Errors
    /// `Corrupt` for any other format.
    pub(super) fn of(archive: &Path) -> Result<Self> {
        let mut head = [0u8; 7];
        let mut file = File::open(archive).context(|| format!("open {}", archive.display()))?;
        let count = file.read(&mut head).context(|| format!("read {}", archive.display()))?;
        match &head[..count] {
            [b'P', b'K', ..] => Ok(Self::Zip),
            [0x1f, 0x8b, ..] => Ok(Self::TarGz),
            b"!<arch>" => Ok(Self::Deb),
            _ => Err(Error::corrupt(format!("{} is not a zip file, a wheel, a .tar.gz or a .deb", archive.display()))),
        }
    }
}

/// Unpacks all of `archive` into the new directory `target`.
pub(super) fn unpack(archive: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target).context(|| format!("create {}", target.display()))?;
    match ArchiveFormat::of(archive)? {
        ArchiveFormat::Zip => open_zip(archive)?.extract(target).map_err(|error| broken(archive, error)),
        ArchiveFormat::TarGz => {
            let mut tar = Command::new("tar");
            tar.arg("-xzf").arg(archive).arg("-C").arg(target).args(["--no-same-owner"]);
            command::run(&mut tar, "unpack the archive by hand").map(drop)
        }
        ArchiveFormat::Deb => {
            let mut dpkg = Command::new("dpkg-deb");
            dpkg.arg("-x").arg(archive).arg(target);
            command::run(&mut dpkg, "fetch Debian packages on Debian or Ubuntu").map(drop)
        }
    }
}

/// Writes the zip member `member` of `archive` to the new file `target`.
///
/// # Errors
/// `NotFound` when the archive has no such member.
pub(super) fn extract_zip_member(archive: &Path, member: &str, target: &Path) -> Result<()> {
    let mut zip = open_zip(archive)?;
    let mut entry = zip.by_name(member).map_err(|error| match error {
        zip::result::ZipError::FileNotFound => missing(archive, member),
        error => broken(archive, error),
    })?;
    let mut file = File::create(target).context(|| format!("create {}", target.display()))?;
    io::copy(&mut entry, &mut file).context(|| format!("extract `{member}` from {}", archive.display()))?;
    file.sync_all().context(|| format!("write {}", target.display()))
}

/// Checks that `member` is a path inside an archive: relative, without `..`.
pub(super) fn check_member(member: &str) -> Result<()> {
    let path = Path::new(member);
    if !member.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(());
    }
    Err(Error::invalid_input(format!("`{member}` is not a path inside an archive: it must be relative, without `..`")))
}

/// Makes the error for an archive without `member`.
pub(super) fn missing(archive: &Path, member: &str) -> Error {
    Error::not_found(format!("{} has no file `{member}`", archive.display()))
}

fn open_zip(archive: &Path) -> Result<ZipArchive<File>> {
    let file = File::open(archive).context(|| format!("open {}", archive.display()))?;
    ZipArchive::new(file).map_err(|error| broken(archive, error))
}

fn broken(archive: &Path, source: zip::result::ZipError) -> Error {
    Error::corrupt(format!("{} cannot be unpacked: {source}; delete it to fetch it anew", archive.display()))
        .with_source(source)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use cenote_base::ErrorKind;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    pub(crate) fn zip_of(path: &Path, files: &[(&str, &str)]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for (name, text) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn zip_members_come_out_one_by_one_and_all_together() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("archive");
        zip_of(&archive, &[("a/b.txt", "b"), ("c.txt", "c")]);
        assert_eq!(ArchiveFormat::of(&archive).unwrap(), ArchiveFormat::Zip);
        extract_zip_member(&archive, "a/b.txt", &dir.path().join("b")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "b");
        unpack(&archive, &dir.path().join("all")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("all/c.txt")).unwrap(), "c");
        let error = extract_zip_member(&archive, "nope", &dir.path().join("n")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn tarballs_unpack_and_other_bytes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f.txt"), "f").unwrap();
        let archive = dir.path().join("archive");
        let mut tar = Command::new("tar");
        command::run(tar.arg("-czf").arg(&archive).arg("-C").arg(dir.path()).arg("f.txt"), "").unwrap();
        unpack(&archive, &dir.path().join("all")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("all/f.txt")).unwrap(), "f");
        assert_eq!(ArchiveFormat::of(&dir.path().join("f.txt")).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn members_cannot_leave_the_archive() {
        check_member("a/b").unwrap();
        for member in ["", "/etc/passwd", "../a", "a/../../b"] {
            assert_eq!(check_member(member).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
}
