//! The rules of English, for the comments of all crates.

use cenote_tests::{prose, workspace};

#[test]
fn comments_keep_to_the_rules() {
    let mut findings = Vec::new();
    let mut files = 0;
    for directory in workspace::members().into_keys() {
        for (file, source) in workspace::sources(&workspace::root().join(&directory)) {
            files += 1;
            findings.extend(prose::findings(&source).iter().map(|finding| format!("{directory}/{file}:{finding}")));
        }
    }
    assert!(files > 100, "only {files} files were read");
    assert!(findings.is_empty(), "{} comments break the rules:\n{}", findings.len(), findings.join("\n"));
}
