//! The creation, upkeep and removal of indexes.

use std::collections::BTreeMap;
use std::sync::Arc;

use cenote_base::{Error, Progress, Result};
use cenote_store::{Table, lance_error};
use lance::Dataset;
use lance::index::DatasetIndexExt;

use super::Indexes;
use crate::build::check::check_column;
use crate::build::create::{BuildOutcome, build_index};
use crate::build::merge::{SEGMENTS_MAX, extend};
use crate::build::params::LanceIndex;
use crate::build::segments::{self, count_vectors, segment_rows};
use crate::build::watch::silent;
use crate::catalog::{Index, IndexInfo};
use crate::definition::{IndexDefinition, Measured, PROPERTY_PREFIX, SearchSettings};
use crate::kind::IndexKind;
use crate::spec::IndexSpec;

impl Indexes {
    /// Creates the index `spec` of `table` from its newest version, and replaces an index of the same name, column and
    /// use. An index over a column without values is defined but not built: searches are exact, and upkeep builds it
    /// when there are values. Writes and searches continue meanwhile; a build that fails leaves the former index in
    /// place. A first build that was interrupted resumes when the index is created again, or at the next upkeep.
    ///
    /// # Errors
    /// `NotFound` for an unknown column; `InvalidInput` for a column whose type the index cannot cover, or an option
    /// out of range; `Unsupported` for a combination that cannot be built; `AlreadyExists` when another index has the
    /// name; `ResourceExhausted`, with the figures, for one that does not fit into memory.
    pub async fn create(&self, table: &Table, spec: &IndexSpec) -> Result<IndexInfo> {
        self.create_watched(table, spec, &silent()).await
    }

    /// Does what [`create`](Self::create) does, and reports to `progress`.
    pub async fn create_watched(
        &self,
        table: &Table,
        spec: &IndexSpec,
        progress: &Arc<dyn Progress>,
    ) -> Result<IndexInfo> {
        let name = spec.effective_name();
        let snapshot = table.snapshot().await?;
        check_column(table.name(), snapshot.schema(), spec)?;
        let catalog = self.catalog(&snapshot).await?;
        if let Some(other) = catalog.indexes.iter().find(|index| index.name == name)
            && (other.column != spec.column || !other.definition.kind.is_same_use(&spec.kind))
        {
            return Err(Error::already_exists(format!(
                "index `{name}` covers column `{}` ({}); choose another name or drop it",
                other.column, other.definition.kind
            )));
        }
        let field = snapshot.base().schema().field(&spec.column).map(|field| field.id);
        let field = field.ok_or_else(|| Error::internal(format!("column `{}` has no number", spec.column)))?;
        let definition = IndexDefinition::new(field, spec.kind.clone());
        let about = |error: Error| error.context(format!("build index `{name}` on column `{}`", spec.column));
        if spec.kind.is_resident() {
            // Built before it is defined, so that an index that does not fit is never defined. An interrupted build
            // resumes from its saved graph.
            if catalog.indexes.iter().any(|index| index.name == name) {
                self.forget(&snapshot, &name);
            }
            let index = Index { name: name.clone(), column: spec.column.clone(), definition, built: None };
            table.fold().await?;
            self.make_resident(&table.snapshot().await?, &index, progress).await.map_err(about)?;
            let is_built = catalog.indexes.iter().any(|index| index.name == name && index.built.is_some());
            let make = async |dataset: &mut Dataset| {
                if is_built {
                    dataset.drop_index(&name).await.map_err(lance_error)?;
                }
                define(dataset, &name, &index.definition).await
            };
            table.maintain(make).await.map_err(about)?;
        } else {
            let make = async |dataset: &mut Dataset| {
                let former = IndexDefinition::read_one(dataset.config(), &name)?;
                let resumes = former.is_some_and(|former| former.is_unfinished && former.kind == spec.kind);
                if !resumes {
                    self.build(dataset, &name, &spec.column, &definition, progress).await?;
                }
                Ok(())
            };
            Box::pin(table.maintain(make)).await.map_err(about)?;
            self.finish(table, &name, progress).await.map_err(about)?;
        }
        let indexes = self.list(&table.snapshot().await?).await?;
        let index = indexes.into_iter().find(|index| index.name == name);
        index.ok_or_else(|| Error::internal(format!("index `{name}` is not there after it was built")))
    }

    /// Drops index `name`. Running searches continue to use it.
    ///
    /// # Errors
    /// `NotFound`, with the names of the indexes of the table.
    pub async fn remove(&self, table: &Table, name: &str) -> Result<()> {
        let snapshot = table.snapshot().await?;
        let is_built = self.catalog(&snapshot).await?.find(table.name(), name)?.built.is_some();
        self.forget(&snapshot, name);
        let remove = async |dataset: &mut Dataset| {
            if is_built {
                dataset.drop_index(name).await.map_err(lance_error)?;
            }
            undefine(dataset, name).await
        };
        table.maintain(remove).await
    }

    /// Brings every index of `table` up to date. New rows are added to an index. An index is rebuilt if it lacks more
    /// rows than it has, has too many segments, or was trained on a much smaller table. A current index, and one whose
    /// column has no values, are left as they are.
    pub async fn optimize(&self, table: &Table) -> Result<()> {
        let snapshot = table.snapshot().await?;
        let catalog = self.catalog(&snapshot).await?;
        self.forget_dropped(&snapshot, &catalog);
        let (mut append, mut rebuild, mut resident) = (Vec::new(), Vec::new(), Vec::new());
        for info in self.list(&snapshot).await? {
            let index = catalog.find(table.name(), &info.name)?;
            if index.definition.kind.is_resident() {
                resident.push(index);
            } else if index.definition.is_unfinished {
                self.finish(table, &index.name, &silent()).await?;
            } else if info.rows_unindexed > info.rows_indexed
                || info.segments > SEGMENTS_MAX
                || index.definition.is_outgrown(info.rows_indexed + info.rows_unindexed)
            {
                rebuild.push(index);
            } else if info.rows_unindexed > 0 {
                append.push(index);
            }
        }
        if !catalog.orphans.is_empty() {
            let forget = async |dataset: &mut Dataset| {
                for name in &catalog.orphans {
                    undefine(dataset, name).await?;
                }
                Ok(())
            };
            table.maintain(forget).await?;
        }
        if !append.is_empty() {
            let options = &self.shared.options;
            Box::pin(table.maintain(async |dataset| extend(dataset, append, options).await)).await?;
        }
        for index in rebuild {
            self.rebuild_index(table, index).await?;
        }
        if !resident.is_empty() {
            table.fold().await?;
            let snapshot = table.snapshot().await?;
            for index in resident {
                self.make_resident(&snapshot, index, &silent()).await?;
            }
        }
        Ok(())
    }

    /// Rebuilds every index of `table` from its rows, by its own definition, so that no index holds values of rows that
    /// are gone.
    pub async fn rebuild(&self, table: &Table) -> Result<()> {
        let catalog = self.catalog(&table.snapshot().await?).await?;
        for index in &catalog.indexes {
            if index.definition.kind.is_resident() {
                self.forget(&table.snapshot().await?, &index.name);
                table.fold().await?;
                self.make_resident(&table.snapshot().await?, index, &silent()).await?;
            } else {
                self.rebuild_index(table, index).await?;
            }
        }
        Ok(())
    }

    /// Builds index `name` by `definition`, and stores the definition.
    async fn build(
        &self,
        dataset: &mut Dataset,
        name: &str,
        column: &str,
        definition: &IndexDefinition,
        progress: &Arc<dyn Progress>,
    ) -> Result<BuildOutcome> {
        let outcome = build_index(dataset, name, column, &definition.kind, &self.shared.options, progress);
        let outcome = Box::pin(outcome).await?;
        let rows = dataset.count_rows(None).await.map_err(lance_error)?;
        let definition =
            IndexDefinition { rows, is_unfinished: outcome == BuildOutcome::Begun, covered: 0, ..definition.clone() };
        define(dataset, name, &definition).await?;
        Ok(outcome)
    }

    /// Rebuilds `index`. An index whose column no longer has values keeps its definition alone.
    pub(crate) async fn rebuild_index(&self, table: &Table, index: &Index) -> Result<()> {
        // The settings were measured on other partitions.
        let definition = IndexDefinition {
            search: SearchSettings::default(),
            measured: index.definition.measured.map(|measured| Measured { rows: 0, ..measured }),
            ..index.definition.clone()
        };
        let rebuild_index = async |dataset: &mut Dataset| {
            let outcome = self.build(dataset, &index.name, &index.column, &definition, &silent()).await?;
            if outcome == BuildOutcome::Empty && index.built.is_some() {
                dataset.drop_index(&index.name).await.map_err(lance_error)?;
            }
            Ok(())
        };
        Box::pin(table.maintain(rebuild_index)).await?;
        self.finish(table, &index.name, &silent()).await
    }

    /// Builds the missing segments of index `name`, if its first build is unfinished. Writes continue between them.
    async fn finish(&self, table: &Table, name: &str, progress: &Arc<dyn Progress>) -> Result<()> {
        let stage = format!("{name}: segments");
        let mut has_begun = false;
        loop {
            let snapshot = table.snapshot().await?;
            let definition = IndexDefinition::read_one(snapshot.properties(), name)?;
            if !definition.is_some_and(|definition| definition.is_unfinished) {
                break;
            }
            if !has_begun {
                has_begun = true;
                progress.begin(&stage, None);
            }
            let added = Box::pin(table.maintain(async |dataset| self.add_segment(dataset, name, progress).await)).await;
            let Some(rows) = added.inspect_err(|_| progress.end(&stage))? else { break };
            progress.advance(&stage, rows as u64);
        }
        if has_begun {
            progress.end(&stage);
        }
        Ok(())
    }

    /// Builds the next segment of index `name`. Returns the number of its rows, or `None` where the index or its column
    /// is gone.
    async fn add_segment(
        &self,
        dataset: &mut Dataset,
        name: &str,
        progress: &Arc<dyn Progress>,
    ) -> Result<Option<usize>> {
        let Some(mut definition) = IndexDefinition::read_one(dataset.config(), name)? else { return Ok(None) };
        let Some(column) = dataset.schema().field_by_id(definition.field).map(|field| field.name.clone()) else {
            return Ok(None);
        };
        let options = &self.shared.options;
        let rows_max = |rows: usize| segment_rows(rows, options.segment_rows).unwrap_or(usize::MAX);
        let rows = if let IndexKind::Vector(_) = &definition.kind {
            let rows_max = rows_max(count_vectors(dataset, &column).await?);
            let added = segments::add_vector_segment(dataset, name, rows_max).await?;
            definition.is_unfinished = added.is_unfinished;
            added.rows
        } else {
            let covered = segments::covered(dataset, &dataset.load_indices_by_name(name).await.map_err(lance_error)?);
            // After a patch of the column, a scalar index would find stale values in an older segment as soon as
            // another one covers the fragment. A full-text search restricts each segment to its own fragments.
            let is_patched = matches!(definition.kind, IndexKind::Scalar(_))
                && segments::fingerprint(&covered) != definition.covered;
            let all = dataset.fragment_bitmap().as_ref().clone();
            let rows_max = rows_max(segments::count_rows(dataset, &all));
            let fragments = match is_patched {
                true => all,
                false => segments::first_fragments(dataset, &(all - &covered), rows_max),
            };
            if !fragments.is_empty() {
                let index = LanceIndex::new(&definition.kind, options)?;
                segments::build_segment(dataset, name, &column, &index, &fragments, progress).await?;
            }
            let covered = segments::covered(dataset, &dataset.load_indices_by_name(name).await.map_err(lance_error)?);
            definition.is_unfinished = covered != *dataset.fragment_bitmap().as_ref();
            definition.covered = if definition.is_unfinished { segments::fingerprint(&covered) } else { 0 };
            segments::count_rows(dataset, &fragments)
        };
        define(dataset, name, &definition).await?;
        Ok(Some(rows))
    }

    /// Stores `definition` as that of index `name`.
    pub(crate) async fn define(&self, table: &Table, name: &str, definition: &IndexDefinition) -> Result<()> {
        table.maintain(async |dataset| define(dataset, name, definition).await).await
    }
}

async fn define(dataset: &mut Dataset, name: &str, definition: &IndexDefinition) -> Result<()> {
    let (key, text) = definition.to_property(name)?;
    if dataset.config().get(&key) == Some(&text) {
        return Ok(());
    }
    dataset.update_config(BTreeMap::from([(key, Some(text))])).await.map(drop).map_err(lance_error)
}

async fn undefine(dataset: &mut Dataset, name: &str) -> Result<()> {
    let key = format!("{PROPERTY_PREFIX}{name}");
    if !dataset.config().contains_key(&key) {
        return Ok(());
    }
    dataset.update_config(BTreeMap::from([(key, None::<String>)])).await.map(drop).map_err(lance_error)
}
