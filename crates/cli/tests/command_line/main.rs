//! The binary as people use it: the README's tour, errors, bad media, and a run that is killed.

#![allow(clippy::unwrap_used, clippy::panic)]

mod changes;
mod media;
mod memory;
mod monitor;
mod snapshots;
mod streams;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_cenote");

/// Returns the directory of the workspace.
fn root() -> PathBuf {
    Path::new("../..").canonicalize().unwrap()
}

/// A lake in a directory of its own, and the command `cenote` on it.
struct TestLake(tempfile::TempDir);

impl TestLake {
    fn new() -> Self {
        let lake = Self(tempfile::tempdir().unwrap());
        lake.ok(&["init"]);
        lake
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.current_dir(self.0.path()).args(arguments).env("CENOTE_LAKE", "lake").stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that succeeds, and returns its standard output.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that fails with `code`, and returns its standard error.
    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?} printed results");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Writes a file beside the lake.
    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Runs a SQL query that succeeds, and returns its rows.
    fn json(&self, query: &str) -> Vec<serde_json::Value> {
        let text = self.ok(&["sql", query, "--format", "json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    let mut bytes = Vec::new();
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x + y) as u8]));
    let mut bytes = Vec::new();
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
    bytes
}

#[test]
fn the_tour_of_the_readme_and_the_docs_works() {
    // The tours of the pages in docs continue in the README's lake.
    let mut pages: Vec<_> = std::fs::read_dir(root().join("docs")).unwrap().map(|page| page.unwrap().path()).collect();
    pages.sort();
    pages.insert(0, root().join("README.md"));
    let text: String = pages.iter().map(|page| std::fs::read_to_string(page).unwrap()).collect();
    let blocks: Vec<&str> =
        text.split("<!-- tour -->\n```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 7, "the tour has {} blocks", blocks.len());
    let directory = tempfile::tempdir().unwrap();
    let binaries = Path::new(BINARY).parent().unwrap();
    let path = std::env::join_paths(
        std::iter::once(binaries.to_path_buf()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &blocks.concat()])
        .current_dir(root())
        .env("PATH", path.unwrap())
        .env("CENOTE_LAKE", directory.path().join("lake"))
        .output()
        .unwrap();
    let (shown, notes) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{notes}");
    for expected in ["sunset.png", "lighthouse", "harbour.md"] {
        assert!(shown.contains(expected), "no `{expected}` in\n{shown}");
    }
    assert!(notes.contains("deleted 1 of 1 rows"), "{notes}");
    let second_run = notes.split("deleted 1 of 1 rows").next().unwrap();
    assert!(second_run.contains("notes        decode_text        0 of 3 rows"), "{notes}");
    assert!(notes.contains("removed from paragraphs"), "{notes}");
}

#[test]
fn errors_say_what_to_do() {
    let lake = TestLake::new();
    let nowhere = tempfile::tempdir().unwrap();
    let elsewhere = nowhere.path().join("none");
    let text = lake.fails(&["--lake", elsewhere.to_str().unwrap(), "tables"], 1);
    assert!(text.contains("is not a lake; create one with `cenote --lake"), "{text}");
    assert!(lake.fails(&["init"], 1).contains("is already a lake"));
    assert_eq!(lake.fails(&["get", "photos", "a"], 1), "error: no table `photos`; there are none\n");
    assert!(lake.fails(&["ingest", "photos", "no/such/file"], 1).contains("read no/such/file"));
    lake.fails(&["frobnicate"], 2);
    lake.write("in/a.txt", "words");
    lake.ok(&["ingest", "notes", "in"]);
    assert_eq!(lake.fails(&["get", "notes", "b"], 1), "error: table `notes` has no row with key b\n");
    assert!(
        lake.fails(&["search", "notes", "--text", "x"], 1).contains("neither a full-text index nor a vector column")
    );
    lake.write("r.yaml", "name: r\nsteps:\n  - { table: notes, operator: decod_text, input: data }\n");
    let text = lake.fails(&["run", "r.yaml"], 1);
    assert_eq!(
        text,
        "error: r.yaml:3:31 (step 1, operator): no operator `decod_text`: did you mean `decode_text`?; \
         `cenote operators` lists them\n"
    );
}

#[test]
fn every_format_prints_the_same_rows() {
    let lake = TestLake::new();
    lake.write("in/a.txt", "one");
    lake.write("in/b.txt", "three");
    lake.ok(&["ingest", "notes", "in"]);
    let query = "SELECT path, size FROM notes ORDER BY path";
    assert_eq!(lake.ok(&["sql", query, "--format", "csv"]), "path,size\nin/a.txt,3\nin/b.txt,5\n");
    let rows = lake.json(query);
    assert_eq!(
        rows,
        [serde_json::json!({"path": "in/a.txt", "size": 3}), serde_json::json!({"path": "in/b.txt", "size": 5})]
    );
    assert!(lake.ok(&["sql", query]).contains("| in/b.txt | 5    |"));
    let whole = lake.ok(&["get", "notes", "in/a.txt"]);
    assert!(whole.contains("<3 bytes>"), "{whole}");
    assert!(lake.ok(&["describe", "notes"]).contains("media"));
    assert!(lake.ok(&["status"]).contains("| unfolded_for |"));
    assert!(lake.ok(&["operators"]).contains("embed_image"));
    assert!(lake.ok(&["models"]).contains("minilm"));
    assert!(lake.ok(&["completions", "bash"]).contains("_cenote"));
}

#[test]
fn bad_media_is_data_and_the_run_goes_on() {
    let lake = TestLake::new();
    let mut huge = png(1, 1);
    // Width and height in the header, whose checksum no longer matches.
    huge[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    huge[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let whole = jpeg(640, 480);
    let mut gif = Vec::new();
    {
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut gif);
        let frame = |shade| image::Frame::new(image::RgbaImage::from_pixel(20, 10, image::Rgba([shade, 0, 0, 255])));
        encoder.encode_frames([frame(10), frame(200)]).unwrap();
    }
    let deep = image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(9, 7, image::Rgb([65_535u16, 300, 0]));
    let mut deep_png = Vec::new();
    deep.write_to(&mut std::io::Cursor::new(&mut deep_png), image::ImageFormat::Png).unwrap();
    let files: [(&str, Vec<u8>); 7] = [
        ("in/good.jpg", whole.clone()),
        ("in/truncated.jpg", whole[..whole.len() / 2].to_vec()),
        ("in/text.jpg", b"these are words".to_vec()),
        ("in/empty.jpg", Vec::new()),
        ("in/huge.png", huge),
        ("in/animated.gif", gif),
        ("in/deep.png", deep_png),
    ];
    for (path, bytes) in &files {
        lake.write(path, bytes);
    }
    lake.ok(&["ingest", "photos", "in"]);
    lake.write("r.yaml", "name: r\nsteps:\n  - { table: photos, operator: thumbnail_image, input: data }\n");
    lake.ok(&["run", "r.yaml"]);
    let good = lake.json("SELECT name FROM photos WHERE thumbnail IS NOT NULL ORDER BY name");
    let good: Vec<&str> = good.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(good, ["animated.gif", "deep.png", "good.jpg"]);
    let errors = lake.ok(&["errors", "photos", "--format", "json"]);
    assert_eq!(errors.lines().count(), 4, "{errors}");
    for line in errors.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(row["reason"].as_str().unwrap().len() > 8, "{row}");
    }
    // Once the file is mended, the row leaves the error table.
    lake.write("in/truncated.jpg", whole);
    lake.ok(&["ingest", "photos", "in"]);
    lake.ok(&["run", "r.yaml"]);
    assert_eq!(lake.ok(&["errors", "photos", "--format", "json"]).lines().count(), 3);
}

#[test]
fn invalid_text_and_a_very_long_line_are_rows_too() {
    let lake = TestLake::new();
    lake.write("in/bad.txt", b"fine until \xff here");
    lake.write("in/good.txt", "fine");
    lake.write("in/long.txt", "word ".repeat(2_000_000));
    lake.ok(&["ingest", "notes", "in"]);
    let recipe = "name: r\nsteps:\n  \
                  - { table: notes, operator: decode_text, input: data }\n  \
                  - { table: notes, operator: chunk_text, input: text, into: chunks, \
                  params: { max_chars: 4000, overlap: 0 } }\n";
    lake.write("r.yaml", recipe);
    lake.ok(&["run", "r.yaml"]);
    let errors = lake.ok(&["errors", "notes", "--format", "json"]);
    assert!(errors.lines().count() == 1 && errors.contains("bad.txt"), "{errors}");
    let rows =
        lake.json("SELECT count(*) AS chunks, sum(length(text)) AS chars FROM chunks WHERE path = 'in/long.txt'");
    assert!(rows[0]["chunks"].as_i64().unwrap() >= 2_500, "{rows:?}");
}

#[cfg(unix)]
#[test]
fn a_killed_run_leaves_the_lake_whole_and_the_next_run_finishes() {
    let lake = TestLake::new();
    for number in 0..300 {
        lake.write(&format!("in/{number:03}.jpg"), jpeg(400 + number, 300));
    }
    lake.ok(&["ingest", "photos", "in"]);
    lake.write(
        "r.yaml",
        "name: r\n\
                steps:\n  \
                - { table: photos, operator: thumbnail_image, input: data }\n  \
                - { table: photos, operator: hash_image, input: data }\n",
    );
    for pause_ms in [30, 120, 250] {
        let mut child = lake.command(&["run", "r.yaml"]).stderr(Stdio::null()).spawn().unwrap();
        #[allow(clippy::disallowed_methods)] // Kills at some moment of a run; every outcome is right.
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        let rows = lake.json("SELECT count(*) AS n, count(DISTINCT path) AS keys FROM photos");
        assert_eq!(rows[0], serde_json::json!({"n": 300, "keys": 300}));
    }
    lake.ok(&["run", "r.yaml"]);
    let rows = lake.json("SELECT count(thumbnail) AS thumbnails, count(phash) AS hashes FROM photos");
    assert_eq!(rows[0], serde_json::json!({"thumbnails": 300, "hashes": 300}));
}

#[test]
fn two_processes_that_write_the_same_keys_keep_them_unique() {
    let lake = TestLake::new();
    for number in 0..60 {
        lake.write(&format!("in/{number}.txt"), format!("words {number}"));
    }
    // Each process ingests one file after another, so that their commits interleave.
    let script = "for round in 1 2; do for file in in/*[05].txt in; do \"$0\" ingest notes $file; done; done";
    let start = || {
        let mut command = Command::new("bash");
        command.args(["-euc", script, BINARY]).current_dir(lake.0.path()).env("CENOTE_LAKE", "lake");
        command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // The table exists before they start: one of two processes that create it at the same time may fail.
    lake.ok(&["ingest", "notes", "in/1.txt"]);
    for child in [start(), start()] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let rows = lake.json("SELECT count(*) AS n, count(DISTINCT path) AS keys FROM notes");
    assert_eq!(rows[0], serde_json::json!({"n": 60, "keys": 60}));
}
