//! The output of the commands, word for word, against reviewed files. `CENOTE_BLESS=1 cargo test` rewrites the files:
//! review the difference before you commit it.

use std::fmt::Write;

use crate::{TestLake, png, root};

/// Runs `script`, one command a line, and compares everything printed with the file called `name`.
fn check(lake: &TestLake, name: &str, script: &str) {
    let mut seen = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let arguments = words(line);
        let output = lake.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        writeln!(seen, "$ cenote {line}").unwrap();
        seen.push_str(&without_time(&String::from_utf8(output.stdout).unwrap()));
        for note in String::from_utf8(output.stderr).unwrap().lines() {
            writeln!(seen, "{}", format!("! {note}").trim_end()).unwrap();
        }
        if !output.status.success() {
            writeln!(seen, "exit {}", output.status.code().unwrap()).unwrap();
        }
        seen.push('\n');
    }
    let path = root().join("crates/cli/tests/snapshots").join(name);
    if std::env::var_os("CENOTE_BLESS").is_some() {
        std::fs::write(&path, seen).unwrap();
        return;
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = seen.lines().zip(reviewed.lines()).position(|(seen, reviewed)| seen != reviewed);
    assert!(seen == reviewed, "{name} differs, first at line {:?}; printed now:\n{seen}", differs.map(|line| line + 1));
}

/// Splits a command line into words, which double quotes hold together.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(at, part)| match at % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

/// Replaces the times of rows in the error table by `TIME`.
fn without_time(text: &str) -> String {
    let mut parts = text.split("\"time\":\"");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        masked.push_str("\"time\":\"TIME");
        masked.push_str(&part[part.find('"').unwrap()..]);
    }
    masked
}

fn lake() -> TestLake {
    let lake = TestLake::new();
    lake.write("notes/boats.md", "Two boats left the harbour before the storm.\n");
    lake.write("notes/garden.md", "Beans, peas and a row of tall sunflowers by the wall.\n");
    lake.write("notes/tower.md", "The lighthouse keeper counts the boats in the harbour.\n");
    lake.write("pictures/small.png", png(30, 20));
    lake.write("pictures/words.png", "no picture");
    lake.write(
        "recipe.yaml",
        "name: notes
steps:
  - { table: notes, operator: decode_text, input: data }
  - { table: notes, operator: count_words, input: text }
  - { table: notes, operator: chunk_text, input: text, into: chunks, params: { max_chars: 30, overlap: 0 } }
  - { table: pictures, operator: describe_image, input: data }
indexes:
  - { table: chunks, column: text, kind: text }
",
    );
    lake.write("pictures.yaml", "name: p\nsteps:\n  - { table: pictures, operator: describe_image, input: data }\n");
    lake
}

#[test]
fn answers_are_as_reviewed() {
    check(
        &lake(),
        "answers.txt",
        r#"
        ingest notes notes --quiet
        ingest pictures pictures --quiet
        ingest notes notes --quiet
        tables
        run pictures.yaml --quiet --dry-run 2
        errors pictures --format json
        run recipe.yaml --quiet
        run recipe.yaml --quiet
        run recipe.yaml --quiet --retry-errors
        errors pictures --format json
        errors notes
        describe chunks
        sql "SELECT path, words, data FROM notes ORDER BY words"
        sql "SELECT path, words, data FROM notes ORDER BY words LIMIT 1" --format json
        sql "SELECT path, words, [words, 1] AS list FROM notes ORDER BY words" --format csv
        sql "SELECT path FROM notes WHERE words > 1000"
        sql "SELECT path FROM notes WHERE words > 1000" --format csv
        sql "SELECT path FROM notes WHERE words > 1000" --format json
        get chunks notes/boats.md 0
        search chunks --text "boats harbour" --where "ordinal = 0" -k 1
        search chunks --text submarine --format json
        index list chunks --format json
        sql "SELECT name, format, width FROM pictures ORDER BY name" --format json
        index create notes words --kind scalar
        index optimize notes
        index drop notes words_scalar
        delete notes notes/garden.md notes/none.md
        delete chunks notes/boats.md,0
        sql "SELECT path, ordinal FROM chunks ORDER BY path, ordinal" --format csv
        "#,
    );
}

#[test]
fn errors_are_as_reviewed() {
    let lake = lake();
    lake.ok(&["ingest", "notes", "notes", "--quiet"]);
    lake.ok(&["ingest", "pictures", "pictures", "--quiet"]);
    let recipes = [
        ("operator.yaml", "name: r\nsteps:\n  - { table: pictures, operator: tumbnail_image, input: data }\n"),
        ("column.yaml", "name: r\nsteps:\n  - { table: pictures, operator: thumbnail_image, input: dat }\n"),
        ("table.yaml", "name: r\nsteps:\n  - { table: picture, operator: thumbnail_image, input: data }\n"),
        (
            "parameter.yaml",
            "name: r\nsteps:\n  - { table: pictures, operator: thumbnail_image, input: data, params: { sise: 9 } }\n",
        ),
        (
            "value.yaml",
            "name: r\nsteps:\n  - { table: pictures, operator: thumbnail_image, input: data, params: { size: big } }\n",
        ),
        ("type.yaml", "name: r\nsteps:\n  - { table: pictures, operator: thumbnail_image, input: size }\n"),
        ("field.yaml", "name: r\nsteps:\n  - { table: pictures, operater: thumbnail_image, input: data }\n"),
        ("syntax.yaml", "name: r\nsteps:\n  - { table: pictures, operator: \n"),
        ("empty.yaml", ""),
    ];
    for (name, text) in recipes {
        lake.write(name, text);
    }
    check(
        &lake,
        "errors.txt",
        r#"
        frobnicate
        init
        --lake nowhere tables
        --memory 3parsecs tables
        --memory 3MiB init
        --cpus 0 tables
        get nothing a
        get notes none.md
        get notes notes/boats.md 7
        ingest notes no/such/file
        ingest "bad name" notes
        sql "SELEC 1"
        sql "SELECT nope FROM notes"
        sql "SELECT * FROM note"
        sql "DELETE FROM notes"
        search notes
        search notes --text boats
        search notes --text boats --image none.png
        search notes --text boats -k 0
        search notes --image none.png
        index create notes path --kind fts
        index create notes none --kind scalar
        index create notes path --kind vector
        index create notes path --kind text --metric l2
        index create notes path --kind hnsw --with m=many
        index tune notes path
        index drop notes none
        errors none
        describe none
        run none.yaml
        run operator.yaml
        run column.yaml
        run table.yaml
        run parameter.yaml
        run value.yaml
        run type.yaml
        run field.yaml
        run syntax.yaml
        run empty.yaml
        "#,
    );
}
