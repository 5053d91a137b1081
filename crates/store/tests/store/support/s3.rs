//! An S3 server on loopback, and a failing network in front of it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cenote_base::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const BUCKET: &str = "bucket";

/// moto's server, which ends when this value is dropped.
pub struct Server {
    process: Child,
    address: SocketAddr,
}

/// A kind of network failure.
#[derive(Debug, Clone, Copy)]
pub enum Network {
    /// Some connections end after a number of bytes to the server, which tears requests.
    Resets,
    /// Some connections end before the answer arrives, although the server did what was asked.
    LostAnswers,
    /// Some requests are answered with 503, and some late.
    Busy,
}

/// A network in front of a server.
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Self {
        let program = super::test_environment().join("bin/moto_server");
        assert!(program.exists(), "{} is missing: run `scripts/setup tests`", program.display());
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, address };
        for _ in 0..600 {
            if TcpStream::connect(address).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut connection = TcpStream::connect(address).await.unwrap();
        let request =
            format!("PUT /{BUCKET} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server
    }

    /// Returns the URI of `prefix` in the server's bucket.
    pub fn uri(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// Returns the options that a client needs.
    pub fn options(&self) -> HashMap<String, String> {
        options(self.address)
    }

    /// Starts a network in front of this server; `seed` decides its faults.
    pub async fn behind(&self, network: Network, seed: u64) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, faults) = (self.address, Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&faults);
        let task = tokio::spawn(async move {
            let mut random = Random::new(seed);
            while let Ok((client, _)) = listener.accept().await {
                let draw = random.next_u64();
                let count = Arc::clone(&count);
                // The client sees how a connection ends.
                tokio::spawn(async move { drop(carry(client, server, network, draw, &count).await) });
            }
        });
        Proxy { address, faults, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Proxy {
    pub fn options(&self) -> HashMap<String, String> {
        options(self.address)
    }

    /// Returns how many times the network failed.
    pub fn faults(&self) -> usize {
        self.faults.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn options(address: SocketAddr) -> HashMap<String, String> {
    let options = [
        ("aws_endpoint", format!("http://{address}")),
        ("aws_access_key_id", "test".to_owned()),
        ("aws_secret_access_key", "test".to_owned()),
        ("aws_region", "us-east-1".to_owned()),
        ("allow_http", "true".to_owned()),
    ];
    options.map(|(name, value)| (name.to_owned(), value)).into()
}

async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    network: Network,
    draw: u64,
    faults: &AtomicUsize,
) -> std::io::Result<()> {
    let mut random = Random::new(draw);
    let mut upstream = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = upstream.split();
    let fails = random.below(4) == 0;
    if !fails {
        let there = tokio::io::copy(&mut from_client, &mut to_server);
        let back = tokio::io::copy(&mut from_server, &mut to_client);
        tokio::select! { done = there => done?, done = back => done? };
        return Ok(());
    }
    faults.fetch_add(1, Ordering::SeqCst);
    match network {
        Network::Resets => {
            let bytes = random.below(6_000);
            let mut some = from_client.take(bytes);
            let there = tokio::io::copy(&mut some, &mut to_server);
            let back = tokio::io::copy(&mut from_server, &mut to_client);
            tokio::select! { done = there => done?, done = back => done? };
        }
        Network::LostAnswers => {
            let there = tokio::io::copy(&mut from_client, &mut to_server);
            let mut answer = [0; 1];
            let back = from_server.read(&mut answer);
            tokio::select! { done = there => drop(done?), done = back => drop(done?) };
        }
        Network::Busy => {
            let mut head = [0; 4096];
            if from_client.read(&mut head).await? == 0 {
                return Ok(());
            }
            if random.below(2) == 0 {
                tokio::time::sleep(Duration::from_millis(200 + random.below(800))).await;
            }
            let answer = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            to_client.write_all(answer.as_bytes()).await?;
        }
    }
    Ok(())
}
