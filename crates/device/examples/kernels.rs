//! Benchmark of the kernels that have a twin on the CPU, on one thread and on a device: throughput, ratio, and the
//! shares of the device's time.
//!
//! Usage: `kernels [SCALE]`. The matrices of searches and clusters have SCALE times 100,000 rows; 0.1 suits a software
//! device. The first GPU is used, else software Vulkan. The output is a line of JSON per kernel, then the same as a
//! table. The CPU's figure is for one thread; n threads do up to n times as much.

#![allow(clippy::print_stdout)] // The figures are its output.

use std::time::{Duration, Instant};

use cenote_base::{Error, Random, Result};
use cenote_device::kmeans::{CentroidInit, KMeansOptions};
use cenote_device::{Device, KernelMetric, Matrix, Pending, gpu_or_software, kmeans, nearest, phash};

const MEMORY_BYTES_MAX: u64 = 2 << 30;
/// Batches per measurement; the figure is their median.
const BATCHES: u32 = 5;

struct Bench {
    device: Device,
    matrix_rows: usize,
    /// The rows of the table, one per kernel.
    rows: Vec<serde_json::Value>,
}

fn main() -> Result<()> {
    let scale = std::env::args().nth(1).map_or(Ok(1.0), |text| text.parse::<f64>());
    let scale = scale.map_err(|source| Error::invalid_input("usage: kernels [SCALE]").with_source(source))?;
    let device = Device::open(&gpu_or_software()?, MEMORY_BYTES_MAX)?;
    let mut bench = Bench { device, matrix_rows: (100_000.0 * scale).max(1000.0) as usize, rows: Vec::new() };
    let mut random = Random::new(1);
    bench.hashes(&mut random)?;
    bench.searches(&mut random)?;
    bench.clusters(&mut random)?;
    bench.table();
    Ok(())
}

fn bytes(random: &mut Random, count: usize) -> Vec<u8> {
    (0..count).map(|_| random.next_u64() as u8).collect()
}

fn numbers(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.unit() as f32).collect()
}

impl Bench {
    fn hashes(&mut self, random: &mut Random) -> Result<()> {
        let count = 4096;
        let pictures = bytes(random, count * phash::SIDE * phash::SIDE);
        let device = self.device.clone();
        self.compare(
            "phash",
            "pictures",
            count,
            || phash::on_cpu(&pictures).map(drop),
            || phash::on_device(&device, &pictures),
        )
    }

    fn searches(&mut self, random: &mut Random) -> Result<()> {
        let (rows, columns, wanted) = (self.matrix_rows, 128, 10);
        let values = numbers(random, rows * columns);
        let queries = numbers(random, 256 * columns);
        let matrix = Matrix::upload(&self.device, &values, columns)?;
        for (metric, count) in [
            (KernelMetric::SquaredL2, 256),
            (KernelMetric::Cosine, 256),
            (KernelMetric::InnerProduct, 256),
            (KernelMetric::SquaredL2, 1),
        ] {
            let queries = &queries[..count * columns];
            self.compare(
                &format!("nearest {metric:?}, {count} of {rows}×128, k = 10"),
                "queries",
                count,
                || nearest::on_cpu(metric, queries, &values, columns, wanted).map(drop),
                || nearest::on_device(metric, queries, &matrix, wanted),
            )?;
        }
        Ok(())
    }

    fn clusters(&mut self, random: &mut Random) -> Result<()> {
        let (rows, columns) = (self.matrix_rows, 128);
        let points = numbers(random, rows * columns);
        // Random centroids, because the CPU chooses them in both cases.
        let options = KMeansOptions {
            centroids: 256,
            iterations_max: 4,
            improvement_min: 0.0,
            init: CentroidInit::Random,
            seed: 1,
        };
        let device = self.device.clone();
        self.compare(
            &format!("kmeans {rows}×128, 256 centroids, 4 iterations"),
            "point iterations",
            rows * options.iterations_max,
            || kmeans::on_cpu(&points, columns, &options).map(drop),
            || kmeans::on_device(&device, &points, columns, &options).map(drop),
        )
    }

    /// Times batches of `items` on the CPU and on the device. The device runs them one after the other, for the shares
    /// of its time, and again with the next submitted before the last is awaited, for the throughput.
    fn compare<D: Wait>(
        &mut self,
        kernel: &str,
        unit: &str,
        items: usize,
        cpu: impl Fn() -> Result<()>,
        on_device: impl Fn() -> Result<D>,
    ) -> Result<()> {
        cpu()?;
        on_device()?.wait()?;
        let mut cpu_times = Vec::new();
        let mut times = Vec::new();
        let before = self.device.usage();
        for _ in 0..BATCHES {
            let start = Instant::now();
            on_device()?.wait()?;
            times.push(start.elapsed());
        }
        let after = self.device.usage();
        for _ in 0..BATCHES {
            let start = Instant::now();
            cpu()?;
            cpu_times.push(start.elapsed());
        }
        let start = Instant::now();
        let mut last = on_device()?;
        for _ in 1..BATCHES {
            let next = on_device()?;
            last.wait()?;
            last = next;
        }
        last.wait()?;
        let overlapped = start.elapsed() / BATCHES;

        let total: Duration = times.iter().sum();
        let compute = Duration::from_nanos(after.compute_ns - before.compute_ns);
        let compute_share = compute.as_secs_f64() / total.as_secs_f64();
        let per_second = |time: Duration| items as f64 / time.as_secs_f64();
        let (cpu_time, device_time) = (median(cpu_times), median(times));
        let row = serde_json::json!({
            "kernel": kernel,
            "unit": format!("{unit}/s"),
            "device": self.device.info().name,
            "batch": items,
            "cpu": per_second(cpu_time),
            "device_alone": per_second(device_time),
            "device_overlapped": per_second(overlapped),
            "ratio": cpu_time.as_secs_f64() / overlapped.min(device_time).as_secs_f64(),
            "compute_share": compute_share,
            "transfer_and_overhead_share": 1.0 - compute_share,
            "uploaded_bytes": (after.uploaded_bytes - before.uploaded_bytes) / u64::from(BATCHES),
            "read_bytes": (after.read_bytes - before.read_bytes) / u64::from(BATCHES),
        });
        println!("{row}");
        self.rows.push(row);
        Ok(())
    }

    fn table(&self) {
        println!("\non {}, against one CPU thread", self.device.info().name);
        println!(
            "{:<48} {:>12} {:>12} {:>12} {:>7} {:>9} {:>9}",
            "kernel", "CPU/s", "alone/s", "overlap/s", "ratio", "compute", "transfer"
        );
        for row in &self.rows {
            let number = |name: &str| row[name].as_f64().unwrap_or_default();
            println!(
                "{:<48} {:>12.0} {:>12.0} {:>12.0} {:>7.2} {:>8.0}% {:>8.0}%",
                row["kernel"].as_str().unwrap_or_default(),
                number("cpu"),
                number("device_alone"),
                number("device_overlapped"),
                number("ratio"),
                100.0 * number("compute_share"),
                100.0 * number("transfer_and_overhead_share"),
            );
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The outcome of a batch on a device, pending or done.
trait Wait {
    fn wait(self) -> Result<()>;
}

impl<T> Wait for Pending<T> {
    fn wait(self) -> Result<()> {
        Pending::wait(self).map(drop)
    }
}

impl Wait for () {
    fn wait(self) -> Result<()> {
        Ok(())
    }
}
