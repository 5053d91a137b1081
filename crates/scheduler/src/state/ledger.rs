//! Who holds which resources. Plain arithmetic: who waits, and in which order, is decided elsewhere.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use cenote_base::{DeviceShare, Error, Resources, Result, Share};

/// Amounts of everything that can be held.
#[derive(Debug)]
pub(crate) struct Ledger {
    cpu_millis: Account,
    pub(crate) memory: Memory,
    aside: Aside,
    names: Vec<String>,
    named: Vec<Account>,
    pub(crate) devices: Vec<Device>,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    total: u64,
    used: u64,
}

/// The process's one byte budget. What is idle can make room, what is held cannot.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    /// Asked for by running work and living actors, or the inputs of running work.
    pub(crate) held: u64,
    /// Objects in memory that nobody uses at the moment.
    pub(crate) idle: u64,
}

/// Memory that is held for work which runs elsewhere. Such work waits for tasks, so the largest of those must fit
/// beside all of it.
#[derive(Debug, Default)]
struct Aside {
    held: u64,
    /// How many of them wait for tasks of so many bytes.
    beside: BTreeMap<u64, u32>,
}

impl Aside {
    /// What must be there for one more, that holds `bytes` and waits for tasks of `beside`.
    fn needed(&self, bytes: u64, beside: u64) -> u64 {
        let largest = self.beside.last_key_value().map_or(0, |(bytes, _)| *bytes);
        self.held + bytes + largest.max(beside)
    }

    fn take(&mut self, bytes: u64, beside: u64) {
        self.held += bytes;
        *self.beside.entry(beside).or_default() += 1;
    }

    fn give(&mut self, bytes: u64, beside: u64) {
        self.held -= bytes;
        if let Entry::Occupied(mut count) = self.beside.entry(beside) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// A device as the ledger sees it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) class: String,
    pub(crate) memory_bytes: u64,
    pub(crate) used_bytes: u64,
}

/// A request in the ledger's units; equal requests are one queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Request {
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    /// For memory that is held for work elsewhere: the bytes of the largest task that it waits for.
    pub(crate) beside_bytes: Option<u64>,
    /// A call on a state that is there, which never waits behind work for what that state holds.
    on_state: bool,
    named: Vec<(usize, u64)>,
    pub(crate) device: Option<DeviceRequest>,
}

/// A share of some device of a class; fractions in millionths.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct DeviceRequest {
    pub(crate) class: String,
    share: Amount,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Amount {
    Millionths(u64),
    Bytes(u64),
}

/// What was taken: given back with [`Ledger::give`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Grant {
    pub(crate) request: Request,
    pub(crate) device: Option<usize>,
}

impl Account {
    fn free(&self) -> u64 {
        self.total - self.used
    }
}

impl Device {
    pub(crate) fn new(class: String, memory_bytes: u64) -> Self {
        Self { class, memory_bytes, used_bytes: 0 }
    }
}

impl DeviceRequest {
    fn bytes(&self, device: &Device) -> u64 {
        match self.share {
            Amount::Bytes(bytes) => bytes,
            Amount::Millionths(part) => (u128::from(device.memory_bytes) * u128::from(part)).div_ceil(1_000_000) as u64,
        }
    }
}

impl Request {
    /// The part that an actor holds while it lives, and the part that it holds during a call.
    pub(crate) fn split_for_actor(&self) -> (Self, Self) {
        let lifetime = Self { cpu_millis: 0, ..self.clone() };
        (lifetime, Self { cpu_millis: self.cpu_millis, on_state: true, ..Self::default() })
    }
}

impl Ledger {
    pub(crate) fn new(total: &Resources, devices: Vec<Device>) -> Self {
        Self {
            cpu_millis: Account { total: millis(total.cpu), used: 0 },
            memory: Memory { total: total.memory_bytes, held: 0, idle: 0 },
            aside: Aside::default(),
            names: total.named.keys().cloned().collect(),
            named: total.named.values().map(|units| Account { total: u64::from(*units), used: 0 }).collect(),
            devices,
        }
    }

    /// `wanted` in the ledger's units.
    ///
    /// # Errors
    /// `InvalidInput` for amounts that make no sense; `ResourceExhausted` for what no wait could ever bring.
    pub(crate) fn request(&self, wanted: &Resources) -> Result<Request> {
        let refuse = |what: String| Err(Error::resource_exhausted(what));
        if !wanted.cpu.is_finite() || wanted.cpu < 0.0 {
            return Err(Error::invalid_input(format!("a request for {} CPU cores makes no sense", wanted.cpu)));
        }
        let cpu_millis = millis(wanted.cpu);
        if cpu_millis > self.cpu_millis.total {
            let have = self.cpu_millis.total as f64 / 1000.0;
            return refuse(format!("{} CPU cores were asked for; this process schedules {have}", wanted.cpu));
        }
        if wanted.memory_bytes > self.memory.total {
            let have = self.memory.total;
            return refuse(format!("{} bytes of memory were asked for; the budget is {have}", wanted.memory_bytes));
        }
        let mut named = Vec::new();
        for (name, units) in wanted.named.iter().filter(|(_, units)| **units > 0) {
            let number = self.names.iter().position(|known| known == name);
            let have = number.map_or(0, |number| self.named[number].total);
            match number {
                Some(number) if u64::from(*units) <= have => named.push((number, u64::from(*units))),
                _ => return refuse(format!("{units} of resource `{name}` were asked for; this process has {have}")),
            }
        }
        let device = wanted.device.as_ref().map(|share| self.device_request(share)).transpose()?;
        Ok(Request {
            cpu_millis,
            memory_bytes: wanted.memory_bytes,
            beside_bytes: None,
            on_state: false,
            named,
            device,
        })
    }

    fn device_request(&self, wanted: &DeviceShare) -> Result<DeviceRequest> {
        let class = &wanted.class;
        let share = match wanted.share {
            Share::Fraction(part) if !(part > 0.0 && part <= 1.0) => {
                return Err(Error::invalid_input(format!(
                    "a share of {part} of a `{class}` makes no sense; it is above 0 and at most 1"
                )));
            }
            Share::MemoryBytes(0) => {
                return Err(Error::invalid_input(format!("a share of 0 bytes of a `{class}` makes no sense")));
            }
            Share::Fraction(part) => Amount::Millionths((f64::from(part) * 1e6).round() as u64),
            Share::MemoryBytes(bytes) => Amount::Bytes(bytes),
        };
        let request = DeviceRequest { class: class.clone(), share };
        let of_class = || self.devices.iter().filter(|device| device.class == *class);
        let Some(largest) = of_class().map(|device| device.memory_bytes).max() else {
            return Err(Error::resource_exhausted(format!("a `{class}` was asked for; this process has none")));
        };
        if !of_class().any(|device| request.bytes(device) <= device.memory_bytes) {
            let Amount::Bytes(bytes) = request.share else { return Ok(request) };
            return Err(Error::resource_exhausted(format!(
                "{bytes} bytes of a `{class}` were asked for; the largest has {largest}"
            )));
        }
        Ok(request)
    }

    /// Whether `request` could be taken now, on `device` if it is for one, beside `inputs_bytes` of objects.
    pub(crate) fn fits(&self, request: &Request, device: Option<usize>, inputs_bytes: u64) -> bool {
        request.cpu_millis <= self.cpu_millis.free()
            && self.has_memory(request, inputs_bytes)
            && request.named.iter().all(|(number, units)| *units <= self.named[*number].free())
            && request.device.as_ref().is_none_or(|wanted| {
                device.is_some_and(|number| {
                    let device = &self.devices[number];
                    wanted.class == device.class && wanted.bytes(device) + device.used_bytes <= device.memory_bytes
                })
            })
    }

    fn has_memory(&self, request: &Request, inputs_bytes: u64) -> bool {
        let total = self.memory.total;
        let beside = |beside: u64| self.aside.needed(request.memory_bytes, beside) <= total;
        self.memory.held + request.memory_bytes + inputs_bytes <= total && request.beside_bytes.is_none_or(beside)
    }

    /// Whether `a` and `b` ask for a common resource that `a` cannot have now.
    pub(crate) fn contend(&self, a: &Request, a_inputs_bytes: u64, b: &Request, b_inputs_bytes: u64) -> bool {
        let memory = a.memory_bytes + a_inputs_bytes;
        let lacks_memory = memory > 0 && !self.has_memory(a, a_inputs_bytes);
        (a.cpu_millis > self.cpu_millis.free() && b.cpu_millis > 0)
            || (lacks_memory && b.memory_bytes + b_inputs_bytes > 0)
            || a.named.iter().any(|(number, units)| {
                *units > self.named[*number].free() && b.named.iter().any(|(other, _)| other == number)
            })
            || a.device.as_ref().is_some_and(|a| b.device.as_ref().is_some_and(|b| a.class == b.class))
    }

    /// Whether `request`, beside `inputs_bytes` of objects, lacks something now that `held` would give back.
    pub(crate) fn would_help(&self, held: &Request, request: &Request, inputs_bytes: u64) -> bool {
        (held.memory_bytes > 0 && !self.has_memory(request, inputs_bytes))
            || request.named.iter().any(|(number, units)| {
                *units > self.named[*number].free() && held.named.iter().any(|(other, _)| other == number)
            })
    }

    /// Takes what [`fits`](Self::fits).
    pub(crate) fn take(&mut self, request: &Request, device: Option<usize>) -> Grant {
        self.cpu_millis.used += request.cpu_millis;
        self.memory.held += request.memory_bytes;
        if let Some(beside) = request.beside_bytes {
            self.aside.take(request.memory_bytes, beside);
        }
        for (number, units) in &request.named {
            self.named[*number].used += units;
        }
        let device = device.filter(|_| request.device.is_some());
        if let (Some(wanted), Some(number)) = (&request.device, device) {
            self.devices[number].used_bytes += wanted.bytes(&self.devices[number]);
        }
        Grant { request: request.clone(), device }
    }

    pub(crate) fn give(&mut self, grant: &Grant) {
        self.cpu_millis.used -= grant.request.cpu_millis;
        self.memory.held -= grant.request.memory_bytes;
        if let Some(beside) = grant.request.beside_bytes {
            self.aside.give(grant.request.memory_bytes, beside);
        }
        for (number, units) in &grant.request.named {
            self.named[*number].used -= units;
        }
        if let (Some(wanted), Some(number)) = (&grant.request.device, grant.device) {
            self.devices[number].used_bytes -= wanted.bytes(&self.devices[number]);
        }
    }

    /// The largest part of any resource that `request` takes: what its time costs (Ghodsi et al., "Dominant Resource
    /// Fairness", NSDI 2011). Work that takes nothing costs a little all the same, or it would never have had its turn.
    pub(crate) fn dominant_share(&self, request: &Request) -> f64 {
        let part = |amount: u64, total: u64| if total == 0 { 0.0 } else { amount as f64 / total as f64 };
        let mut share = part(request.cpu_millis, self.cpu_millis.total).max(1e-3);
        share = share.max(part(request.memory_bytes, self.memory.total));
        for (number, units) in &request.named {
            share = share.max(part(*units, self.named[*number].total));
        }
        if let Some(wanted) = &request.device {
            let of_class = self.devices.iter().filter(|device| device.class == wanted.class);
            let (mut count, mut of_one) = (0.0, 1.0f64);
            for device in of_class {
                count += 1.0;
                of_one = of_one.min(part(wanted.bytes(device), device.memory_bytes));
            }
            share = share.max(of_one / f64::max(count, 1.0));
        }
        share
    }

    /// What `request` lacks now, for people.
    pub(crate) fn lacks(&self, request: &Request, inputs_bytes: u64) -> Option<String> {
        let mut lacks = Vec::new();
        if request.cpu_millis > self.cpu_millis.free() {
            let (wanted, free) = (request.cpu_millis as f64 / 1000.0, self.cpu_millis.free() as f64 / 1000.0);
            lacks.push(format!("{wanted} CPU ({free} free)"));
        }
        let memory = request.memory_bytes + inputs_bytes;
        let free = self.memory.total.saturating_sub(self.memory.held);
        if !self.has_memory(request, inputs_bytes) {
            lacks.push(format!("{memory} bytes of memory ({free} free)"));
        }
        for (number, units) in &request.named {
            let free = self.named[*number].free();
            if *units > free {
                lacks.push(format!("{units} `{}` ({free} free)", self.names[*number]));
            }
        }
        if let Some(wanted) = &request.device {
            let mut of_class = self.devices.iter().filter(|device| device.class == wanted.class);
            if !of_class.any(|device| wanted.bytes(device) + device.used_bytes <= device.memory_bytes) {
                lacks.push(format!("room on a `{}`", wanted.class));
            }
        }
        if lacks.is_empty() { None } else { Some(lacks.join(", ")) }
    }

    /// Panics unless exactly `grants` are taken and `pinned_bytes` of objects held, and no more than there is.
    #[cfg(test)]
    pub(crate) fn audit(&self, grants: &[Grant], pinned_bytes: u64) {
        let sum = |amount: &dyn Fn(&Grant) -> u64| grants.iter().map(amount).sum::<u64>();
        assert_eq!(self.cpu_millis.used, sum(&|grant| grant.request.cpu_millis), "CPU");
        assert!(self.cpu_millis.used <= self.cpu_millis.total);
        assert_eq!(self.memory.held, sum(&|grant| grant.request.memory_bytes) + pinned_bytes, "memory");
        assert!(self.memory.held <= self.memory.total);
        for (number, account) in self.named.iter().enumerate() {
            let of = |grant: &Grant| {
                grant.request.named.iter().filter(|(name, _)| *name == number).map(|(_, units)| *units).sum()
            };
            assert_eq!(account.used, sum(&of), "{}", self.names[number]);
            assert!(account.used <= account.total);
        }
        for (number, device) in self.devices.iter().enumerate() {
            let of = |grant: &Grant| match (&grant.request.device, grant.device) {
                (Some(wanted), Some(on)) if on == number => wanted.bytes(device),
                _ => 0,
            };
            assert_eq!(device.used_bytes, sum(&of), "device {number}");
            assert!(device.used_bytes <= device.memory_bytes);
        }
    }

    /// What there is.
    pub(crate) fn total(&self) -> Resources {
        let units = self.named.iter().map(|account| account.total as u32);
        Resources {
            cpu: self.cpu_millis.total as f32 / 1000.0,
            memory_bytes: self.memory.total,
            named: self.names.iter().cloned().zip(units).collect(),
            device: None,
        }
    }

    /// What is held. Idle objects are not: they make room.
    pub(crate) fn used(&self) -> Resources {
        Resources {
            cpu: self.cpu_millis.used as f32 / 1000.0,
            memory_bytes: self.memory.held,
            named: self.names.iter().cloned().zip(self.named.iter().map(|account| account.used as u32)).collect(),
            device: None,
        }
    }
}

fn millis(cpu: f32) -> u64 {
    (f64::from(cpu) * 1000.0).round() as u64
}
