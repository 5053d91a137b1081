//! Who holds which resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use cenote_base::{Error, Resources, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are thousandths of a core, KiB of memory, and units of named resources.
#[derive(Debug)]
pub(crate) struct Ledger {
    cpu: Account,
    memory: Account,
    named: BTreeMap<String, Account>,
}

#[derive(Debug)]
struct Account {
    permits: Arc<Semaphore>,
    total: u32,
}

/// Resources held until dropped.
#[derive(Debug, Default)]
pub(crate) struct Grant {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Account {
    fn new(total: u32) -> Self {
        Self { permits: Arc::new(Semaphore::new(total as usize)), total }
    }

    async fn take(&self, amount: u32, grant: &mut Grant) -> Result<()> {
        if amount > 0 {
            let permit = Arc::clone(&self.permits).acquire_many_owned(amount).await;
            grant._permits.push(permit.map_err(|_| Error::internal("the resource ledger was closed"))?);
        }
        Ok(())
    }

    fn used(&self) -> u32 {
        self.total.saturating_sub(self.permits.available_permits() as u32)
    }
}

impl Ledger {
    pub(crate) fn new(total: &Resources) -> Self {
        let named = total.named.iter().map(|(name, units)| (name.clone(), Account::new(*units))).collect();
        Self { cpu: Account::new(millis(total.cpu)), memory: Account::new(kib(total.memory_bytes)), named }
    }

    /// Refuses a request that no wait could ever meet.
    pub(crate) fn check(&self, request: &Resources) -> Result<()> {
        let refuse = |what: String| Err(Error::resource_exhausted(what));
        if !request.cpu.is_finite() || request.cpu < 0.0 {
            return Err(Error::invalid_input(format!("a request for {} CPU cores makes no sense", request.cpu)));
        }
        if millis(request.cpu) > self.cpu.total {
            let have = f64::from(self.cpu.total) / 1000.0;
            return refuse(format!("{} CPU cores were asked for; this process schedules {have}", request.cpu));
        }
        if kib(request.memory_bytes) > self.memory.total {
            let have = u64::from(self.memory.total) << 10;
            return refuse(format!("{} bytes of memory were asked for; the budget is {have}", request.memory_bytes));
        }
        for (name, units) in &request.named {
            let have = self.named.get(name).map_or(0, |account| account.total);
            if *units > have {
                return refuse(format!("{units} of resource `{name}` were asked for; this process has {have}"));
            }
        }
        Ok(())
    }

    /// Waits until `request` can be held. Accounts are taken in one order everywhere, so two waits cannot block each other
    /// for ever. Cancel safe: what was taken is given back.
    pub(crate) async fn acquire(&self, request: &Resources) -> Result<Grant> {
        self.check(request)?;
        let mut grant = Grant::default();
        for (name, units) in &request.named {
            if let Some(account) = self.named.get(name) {
                account.take(*units, &mut grant).await?;
            }
        }
        self.memory.take(kib(request.memory_bytes), &mut grant).await?;
        self.cpu.take(millis(request.cpu), &mut grant).await?;
        Ok(grant)
    }

    pub(crate) fn used(&self) -> Resources {
        Resources {
            cpu: self.cpu.used() as f32 / 1000.0,
            memory_bytes: u64::from(self.memory.used()) << 10,
            named: self.named.iter().map(|(name, account)| (name.clone(), account.used())).collect(),
        }
    }
}

fn millis(cpu: f32) -> u32 {
    (cpu * 1000.0).round() as u32
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
