//! The story that the demo tells: the same questions before and after a few rows change.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, Schema};
use cenote_runtime::arrow;
use cenote_runtime::{Context, Error, Lake, Progress, Recipe, Result, RunOptions, RunReport, TableSpec};

use super::fetch::{MediaOrigin, PLACES};
use super::sheet::{self, SheetPicture, SheetRow};
use crate::arguments::OutputFormat;
use crate::{output, report};

const PORTRAIT: &str = "photos/gradio/cheetah.jpg";
const WORDS: &str = "install a package from a registry";

/// Files that are put aside at first and added later.
const ADDED: [&str; 5] = [
    "photos/gradio/cheetah1.jpg",
    "photos/stdlib/nagasaki-boats.jpg",
    "photos/scikit-image/rocket.jpg",
    "documents/npm/commands/npm-install.md",
    "documents/npm/commands/npm-publish.md",
];
const CHANGED_PHOTOS: [&str; 2] = ["photos/gradio/lion.jpg", "photos/scikit-image/coffee.png"];
const CHANGED_DOCUMENT: &str = "documents/npm/using-npm/registry.md";
const ADDED_PARAGRAPH: &str = "
## In short

To install a package from a registry, name the package; to use another registry, name that too.
";
const DELETED: [&str; 2] = ["photos/scikit-image/chelsea.png", "documents/npm/commands/npm-init.md"];

/// The answers to the questions, each a list of rows, the best first.
pub struct Answers {
    text: Vec<FoundRow>,
    alike: Vec<FoundRow>,
    hybrid: Vec<FoundRow>,
    words: Vec<FoundRow>,
}

/// A row that was found, with its distance if it was ranked by distance.
struct FoundRow {
    path: String,
    distance: Option<f64>,
}

/// The demo's lake, its recipe, and how to run it.
pub struct Story {
    lake: Lake,
    recipe: Recipe,
    options: RunOptions,
    progress: Arc<dyn Progress>,
}

/// Loads both models, fetching and building them if needed, so that the timed part is work and not downloads.
pub async fn warm_up(lake: &Lake) -> Result<()> {
    lake.embed_text("warm up").await?;
    let grey = image::RgbImage::from_pixel(32, 32, image::Rgb([128; 3]));
    let mut png = Vec::new();
    grey.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png)
        .map_err(|source| Error::internal("encode a picture").with_source(source))?;
    lake.embed_image(&png, 384).await.map(drop)
}

impl Story {
    pub fn new(lake: Lake, recipe: Recipe, options: RunOptions, progress: Arc<dyn Progress>) -> Self {
        Self { lake, recipe, options, progress }
    }

    /// Puts aside the files that are added later, and records the origins of the media.
    pub async fn begin(&self, sources: &[MediaOrigin]) -> Result<()> {
        for path in ADDED {
            let aside = Path::new("aside").join(path);
            make_parent(&aside)?;
            std::fs::rename(path, &aside).context(|| format!("put aside {path}"))?;
        }
        let text = |name, nullable| Field::new(name, DataType::Utf8, nullable);
        let schema = Arc::new(Schema::new(vec![text("source", false), text("packages", true), text("licence", true)]));
        let table = self.lake.create_table("sources", TableSpec::new(Arc::clone(&schema), ["source"])).await?;
        let column = |of: fn(&MediaOrigin) -> &str| {
            Arc::new(sources.iter().map(|s| Some(of(s))).collect::<StringArray>()) as ArrayRef
        };
        let columns = vec![column(|s| &s.name), column(|s| &s.packages), column(|s| &s.licence)];
        let rows =
            RecordBatch::try_new(schema, columns).map_err(|e| Error::internal("build sources").with_source(e))?;
        table.upsert(rows).await.map(drop)
    }

    /// Ingests the directories, and brings everything derived up to date.
    pub async fn run(&self) -> Result<RunReport> {
        for table in PLACES {
            let done = self.lake.ingest(table, &[table.into()], self.progress.as_ref()).await?;
            report::ingest(table, &done);
        }
        self.lake.run(&self.recipe, &self.options).await
    }

    /// Asks the questions, and prints the answers.
    pub async fn ask(&self) -> Result<Answers> {
        let text = self
            .answer(
                "Full-text search, only in the documents on commands",
                &format!(
                    "SELECT path, ordinal, _score, text\n\
                     FROM text_search('chunks', '{WORDS}', 5, 'path LIKE ''documents/npm/commands/%''')\n\
                     ORDER BY _score DESC"
                ),
            )
            .await?;
        let vector = self.vector_of(PORTRAIT).await?;
        let alike = self
            .answer(
                "More like the cheetah: vector search with a filter and a join",
                &format!(
                    "SELECT p.path, p.width, p.height, s.licence, p.distance\n\
                     FROM (SELECT path, width, height, cosine_distance(embedding, {vector}) AS distance\n      \
                     FROM photos WHERE width >= 200 AND path <> '{PORTRAIT}'\n      \
                     ORDER BY distance LIMIT 6) p\n\
                     JOIN sources s ON s.source = split_part(p.path, '/', 2)\n\
                     ORDER BY p.distance"
                ),
            )
            .await?;
        let hybrid = self
            .answer(
                "Hybrid: words and meaning fused",
                &format!(
                    "SELECT path, ordinal, _score, text\n\
                     FROM hybrid_search('chunks', 'embedding', embed_text('{WORDS}'), '{WORDS}', 5)\n\
                     ORDER BY _score DESC"
                ),
            )
            .await?;
        let words = self
            .answer(
                "Pictures by words",
                "SELECT path, cosine_distance(embedding, embed_text('a wild cat')) AS distance\n\
                 FROM photos ORDER BY distance LIMIT 6",
            )
            .await?;
        Ok(Answers { text, alike, hybrid, words })
    }

    async fn answer(&self, title: &str, sql: &str) -> Result<Vec<FoundRow>> {
        let result = self.lake.sql(sql).await?;
        let schema = Arc::clone(&result.schema);
        let batches = result.collect().await?;
        let rows = concat_batches(&schema, &batches).map_err(|e| Error::internal("join rows").with_source(e))?;
        output::note(&format!("\n-- {title}\n{}", elide(sql)));
        output::rows(&rows, OutputFormat::Table)?;
        let paths = cast(rows.column(0), &DataType::Utf8).map_err(|e| Error::internal("read paths").with_source(e))?;
        let distances = rows.column_by_name("distance").map(|column| cast(column, &DataType::Float64)).transpose();
        let distances = distances.map_err(|e| Error::internal("read distances").with_source(e))?;
        let distance = |row| Some(distances.as_ref()?.as_primitive::<Float64Type>().value(row));
        let found = |(row, path): (usize, &str)| FoundRow { path: path.to_owned(), distance: distance(row) };
        Ok(paths.as_string::<i32>().iter().flatten().enumerate().map(found).collect())
    }

    async fn vector_of(&self, path: &str) -> Result<String> {
        let table = self.lake.table("photos").await?;
        let row = table.get_keys(&[vec![path.to_owned()]], Some(vec!["embedding".to_owned()])).await?;
        let vector = row.column(0).as_fixed_size_list_opt().filter(|v| v.len() == 1 && v.is_valid(0));
        let vector = vector.ok_or_else(|| Error::internal(format!("`{path}` has no embedding")))?.value(0);
        let mut text = String::from("[");
        for (at, number) in vector.as_primitive::<Float32Type>().values().iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{number:.6}", if at == 0 { "" } else { ", " });
        }
        Ok(text + "]")
    }

    /// Changes three rows, deletes two and adds five.
    pub async fn change(&self) -> Result<()> {
        for path in CHANGED_PHOTOS {
            let wrong = |source| Error::internal(format!("mirror {path}")).with_source(source);
            image::open(path).map_err(wrong)?.fliph().save(path).map_err(wrong)?;
            output::note(&format!("changed  {path} (mirrored)"));
        }
        let mut text = std::fs::read_to_string(CHANGED_DOCUMENT).context(|| format!("read {CHANGED_DOCUMENT}"))?;
        text.push_str(ADDED_PARAGRAPH);
        std::fs::write(CHANGED_DOCUMENT, text).context(|| format!("write {CHANGED_DOCUMENT}"))?;
        output::note(&format!("changed  {CHANGED_DOCUMENT} (a paragraph more)"));
        for path in DELETED {
            std::fs::remove_file(path).context(|| format!("remove {path}"))?;
            let table = path.split('/').next().unwrap_or(path);
            self.lake.table(table).await?.delete_keys(&[vec![path.to_owned()]]).await?;
            output::note(&format!("deleted  {path}"));
        }
        for path in ADDED {
            make_parent(Path::new(path))?;
            std::fs::rename(Path::new("aside").join(path), path).context(|| format!("add {path}"))?;
            output::note(&format!("added    {path}"));
        }
        Ok(())
    }

    /// Checks that every step processed exactly the rows that changed.
    pub fn check_work(&self, report: &RunReport) -> Result<()> {
        let chunks = report.steps.iter().find(|step| step.target == "chunks").map_or(0, |step| step.child_rows_written);
        for step in &report.steps {
            let expected = match step.table.as_str() {
                "photos" => 5,
                "documents" => 3,
                "chunks" => chunks,
                _ => 0,
            };
            if step.rows_processed != expected {
                return Err(Error::internal(format!(
                    "step `{}` on {} processed {} rows; {expected} had changed",
                    step.operator, step.table, step.rows_processed
                )));
            }
        }
        Ok(())
    }

    /// Checks that the new answers have the new rows and lack the deleted ones.
    pub fn check_answers(&self, before: &Answers, after: &Answers) -> Result<()> {
        let expect = |holds: bool, what: &str| {
            if holds { Ok(()) } else { Err(Error::internal(format!("the demo expected that {what}"))) }
        };
        let has = |answer: &[FoundRow], path: &str| answer.iter().any(|found| found.path == path);
        expect(has(&before.alike, DELETED[0]), "the cat was among the pictures like the cheetah")?;
        expect(has(&before.text, DELETED[1]), "the deleted document answered the text search")?;
        expect(has(&after.alike, ADDED[0]), "the second cheetah is among the pictures like the first")?;
        expect(has(&after.text, ADDED[4]), "an added document answers the text search")?;
        expect(has(&after.hybrid, ADDED[4]), "an added document answers the hybrid search")?;
        for path in DELETED {
            let gone = [&after.text, &after.alike, &after.hybrid, &after.words].iter().all(|answer| !has(answer, path));
            expect(gone, &format!("{path} is gone from every answer"))?;
        }
        Ok(())
    }

    /// Draws the pictures that were found, and keyframes of the clips, under `heading`.
    pub async fn sheet(&self, heading: &str, answers: &Answers, path: &Path) -> Result<()> {
        let mut asked = self.picture(PORTRAIT, "the picture asked about").await?;
        asked.is_framed = true;
        let mut alike = SheetRow { title: "More like this one".to_owned(), pictures: vec![asked] };
        alike.pictures.extend(self.pictures(&answers.alike).await?);
        let words = SheetRow {
            title: "Pictures by words: \"a wild cat\"".to_owned(),
            pictures: self.pictures(&answers.words).await?,
        };
        let frames = SheetRow { title: "Keyframes of the clips".to_owned(), pictures: self.frames().await? };
        sheet::write(heading, &[alike, words, frames], path)?;
        output::note(&format!("\ndrew {}", path.display()));
        Ok(())
    }

    async fn pictures(&self, rows: &[FoundRow]) -> Result<Vec<SheetPicture>> {
        let mut pictures = Vec::new();
        for row in rows {
            let distance = row.distance.map_or_else(String::new, |distance| format!("distance {distance:.3}"));
            let mut picture = self.picture(&row.path, &distance).await?;
            picture.badge = match row.path.as_str() {
                path if !ADDED.contains(&path) && !CHANGED_PHOTOS.contains(&path) => None,
                path if ADDED.contains(&path) => Some("added"),
                // Files that are still put aside show that the change is yet to come.
                _ if Path::new("aside").join(ADDED[0]).exists() => None,
                _ => Some("changed"),
            };
            pictures.push(picture);
        }
        Ok(pictures)
    }

    async fn picture(&self, path: &str, detail: &str) -> Result<SheetPicture> {
        let table = self.lake.table("photos").await?;
        let row = table.get_keys(&[vec![path.to_owned()]], Some(vec!["thumbnail".to_owned()])).await?;
        let thumbnail = row.column(0).as_binary_opt::<i64>().filter(|column| column.len() == 1 && column.is_valid(0));
        let thumbnail = thumbnail.ok_or_else(|| Error::internal(format!("`{path}` has no thumbnail")))?;
        let label = path.rsplit('/').next().unwrap_or(path).to_owned();
        let (detail, bytes) = (detail.to_owned(), thumbnail.value(0).to_vec());
        Ok(SheetPicture { label, detail, badge: None, is_framed: false, bytes })
    }

    /// Returns the first keyframes of each clip, in turns.
    async fn frames(&self) -> Result<Vec<SheetPicture>> {
        let frames = "SELECT path, timestamp_ms, frame FROM frames ORDER BY ordinal, path LIMIT 7";
        let wrong = |source| Error::internal("read frames").with_source(source);
        let mut pictures = Vec::new();
        for batch in self.lake.sql(frames).await?.collect().await? {
            let paths = cast(batch.column(0), &DataType::Utf8).map_err(wrong)?;
            let times = batch.column(1).as_primitive::<Int64Type>();
            let media = cast(batch.column(2), &DataType::LargeBinary).map_err(wrong)?;
            for (row, frame) in media.as_binary::<i64>().iter().enumerate() {
                let label = paths.as_string::<i32>().value(row).rsplit('/').next().unwrap_or_default().to_owned();
                let detail = format!("at {:.1} s", times.value(row) as f64 / 1000.0);
                let bytes = frame.ok_or_else(|| Error::internal(format!("a frame of `{label}` is null")))?.to_vec();
                pictures.push(SheetPicture { label, detail, badge: None, is_framed: false, bytes });
            }
        }
        Ok(pictures)
    }
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).context(|| format!("make directory {}", parent.display())),
        None => Ok(()),
    }
}

/// Shortens the vector in `sql`, for people.
fn elide(sql: &str) -> String {
    match (sql.find('['), sql.find(']')) {
        (Some(start), Some(end)) if end > start + 40 => format!("{}, …{}", &sql[..start + 30], &sql[end..]),
        _ => sql.to_owned(),
    }
}
