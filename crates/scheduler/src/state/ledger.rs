//! The account of all resources: how much there is, and how much is granted.
//!
//! The ledger is arithmetic. It does not know tasks, and does not decide who waits.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use cenote_base::{DeviceShare, Error, Resources, Result, Share};

use super::memory_budget::MemoryBudget;

/// The totals of all resources, and the amounts that are granted.
#[derive(Debug)]
pub(crate) struct Ledger {
    cpu_millis: Account,
    memory: MemoryBudget,
    set_aside: SetAside,
    named: Vec<NamedAccount>,
    devices: Vec<DeviceAccount>,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    total: u64,
    used: u64,
}

#[derive(Debug)]
struct NamedAccount {
    name: String,
    units: Account,
}

/// The memory of one device.
#[derive(Debug)]
pub(crate) struct DeviceAccount {
    class: String,
    memory_bytes: u64,
    used_bytes: u64,
}

/// Memory that [`Hold`](crate::Hold)s keep for work outside the scheduler. That work waits for tasks, so the largest of
/// those tasks must fit beside everything that is set aside.
#[derive(Debug, Default)]
struct SetAside {
    held_bytes: u64,
    /// The number of holds, by the bytes of the largest task that each waits for.
    holds_by_task_bytes: BTreeMap<u64, u32>,
}

/// A resource request in the ledger's units. Equal requests share a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct ResourceRequest {
    cpu_millis: u64,
    memory_bytes: u64,
    /// For memory that is set aside: the bytes of the largest task that the holder waits for.
    task_bytes: Option<u64>,
    /// Marks a call on an existing actor state. It gets a queue of its own, so that it never waits behind work for the
    /// resources that the state holds.
    on_state: bool,
    named: Vec<NamedUnits>,
    device: Option<DeviceRequest>,
}

/// Units of the named resource at index `resource` of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct NamedUnits {
    resource: usize,
    units: u64,
}

/// A share of any device of a class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct DeviceRequest {
    class: String,
    amount: DeviceAmount,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum DeviceAmount {
    Millionths(u64),
    Bytes(u64),
}

/// A request together with the bytes of the task's inputs, which must be pinned before it starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand<'a> {
    pub(crate) request: &'a ResourceRequest,
    pub(crate) inputs_bytes: u64,
}

/// Resources that were taken. They are given back with [`Ledger::give`].
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Grant {
    request: ResourceRequest,
    device: Option<usize>,
}

impl SetAside {
    /// Returns the bytes that must exist before one more hold of `bytes`, which waits for tasks of `task_bytes`.
    fn needed(&self, bytes: u64, task_bytes: u64) -> u64 {
        let largest = self.holds_by_task_bytes.last_key_value().map_or(0, |(bytes, _)| *bytes);
        self.held_bytes + bytes + largest.max(task_bytes)
    }

    fn take(&mut self, bytes: u64, task_bytes: u64) {
        self.held_bytes += bytes;
        *self.holds_by_task_bytes.entry(task_bytes).or_default() += 1;
    }

    fn give(&mut self, bytes: u64, task_bytes: u64) {
        self.held_bytes -= bytes;
        if let Entry::Occupied(mut holds) = self.holds_by_task_bytes.entry(task_bytes) {
            *holds.get_mut() -= 1;
            if *holds.get() == 0 {
                holds.remove();
            }
        }
    }
}

impl Account {
    fn new(total: u64) -> Self {
        Self { total, used: 0 }
    }

    fn free(&self) -> u64 {
        self.total - self.used
    }

    /// Returns the part of the total that `amount` is.
    fn share(&self, amount: u64) -> f64 {
        part(amount, self.total)
    }
}

impl DeviceAccount {
    pub(crate) fn new(class: String, memory_bytes: u64) -> Self {
        Self { class, memory_bytes, used_bytes: 0 }
    }

    pub(crate) fn class(&self) -> &str {
        &self.class
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Returns the bytes of this device that `wanted` requests.
    fn bytes_of(&self, wanted: &DeviceRequest) -> u64 {
        match wanted.amount {
            DeviceAmount::Bytes(bytes) => bytes,
            DeviceAmount::Millionths(share) => {
                (u128::from(self.memory_bytes) * u128::from(share)).div_ceil(1_000_000) as u64
            }
        }
    }

    fn has_room(&self, wanted: &DeviceRequest) -> bool {
        self.used_bytes + self.bytes_of(wanted) <= self.memory_bytes
    }
}

impl ResourceRequest {
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    pub(super) fn is_for_device(&self) -> bool {
        self.device.is_some()
    }

    /// Turns the request into one for `bytes` of memory that are set aside for work outside the scheduler, which waits
    /// for tasks of at most `task_bytes`.
    pub(crate) fn set_aside(&mut self, bytes: u64, task_bytes: u64) {
        (self.memory_bytes, self.task_bytes) = (bytes, Some(task_bytes));
    }

    /// Returns the part of an actor's request that a call on an existing state needs: the CPU.
    pub(super) fn for_call(&self) -> Self {
        Self { cpu_millis: self.cpu_millis, on_state: true, ..Self::default() }
    }
}

impl Grant {
    pub(crate) fn request(&self) -> &ResourceRequest {
        &self.request
    }
}

impl Ledger {
    pub(crate) fn new(total: &Resources, devices: Vec<DeviceAccount>) -> Self {
        let named = total.named.iter();
        let named =
            named.map(|(name, units)| NamedAccount { name: name.clone(), units: Account::new((*units).into()) });
        Self {
            cpu_millis: Account::new(millis(total.cpu)),
            memory: MemoryBudget::new(total.memory_bytes),
            set_aside: SetAside::default(),
            named: named.collect(),
            devices,
        }
    }

    pub(crate) fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    pub(crate) fn memory_mut(&mut self) -> &mut MemoryBudget {
        &mut self.memory
    }

    pub(crate) fn devices(&self) -> &[DeviceAccount] {
        &self.devices
    }

    /// Converts `wanted` to the ledger's units.
    ///
    /// # Errors
    /// `InvalidInput` for amounts that are out of range; `ResourceExhausted` for amounts that no wait could ever free.
    pub(crate) fn request(&self, wanted: &Resources) -> Result<ResourceRequest> {
        let refuse = |message: String| Err(Error::resource_exhausted(message));
        if !wanted.cpu.is_finite() || wanted.cpu < 0.0 {
            return Err(Error::invalid_input(format!("CPU cores must be a number ≥ 0, found {}", wanted.cpu)));
        }
        let cpu_millis = millis(wanted.cpu);
        if cpu_millis > self.cpu_millis.total {
            let total = self.cpu_millis.total as f64 / 1000.0;
            return refuse(format!("{} CPU cores were asked for; this process schedules {total}", wanted.cpu));
        }
        if wanted.memory_bytes > self.memory.total() {
            let total = self.memory.total();
            return refuse(format!("{} bytes of memory were asked for; the budget is {total}", wanted.memory_bytes));
        }
        let mut named = Vec::new();
        for (name, units) in wanted.named.iter().filter(|(_, units)| **units > 0) {
            let resource = self.named.iter().position(|account| account.name == *name);
            let total = resource.map_or(0, |resource| self.named[resource].units.total);
            match resource {
                Some(resource) if u64::from(*units) <= total => {
                    named.push(NamedUnits { resource, units: u64::from(*units) });
                }
                _ => return refuse(format!("{units} of resource `{name}` were asked for; this process has {total}")),
            }
        }
        let device = wanted.device.as_ref().map(|share| self.device_request(share)).transpose()?;
        Ok(ResourceRequest {
            cpu_millis,
            memory_bytes: wanted.memory_bytes,
            named,
            device,
            ..ResourceRequest::default()
        })
    }

    fn device_request(&self, wanted: &DeviceShare) -> Result<DeviceRequest> {
        let class = &wanted.class;
        let amount = match wanted.share {
            Share::Fraction(share) if !(share > 0.0 && share <= 1.0) => {
                return Err(Error::invalid_input(format!(
                    "a share of a `{class}` must be above 0 and at most 1, found {share}"
                )));
            }
            Share::MemoryBytes(0) => {
                return Err(Error::invalid_input(format!("a share of a `{class}` must be at least 1 byte, found 0")));
            }
            Share::Fraction(share) => DeviceAmount::Millionths((f64::from(share) * 1e6).round() as u64),
            Share::MemoryBytes(bytes) => DeviceAmount::Bytes(bytes),
        };
        let request = DeviceRequest { class: class.clone(), amount };
        let Some(largest) = self.devices_of(class).map(DeviceAccount::memory_bytes).max() else {
            return Err(Error::resource_exhausted(format!("a `{class}` was asked for; this process has none")));
        };
        match request.amount {
            DeviceAmount::Bytes(bytes) if bytes > largest => Err(Error::resource_exhausted(format!(
                "{bytes} bytes of a `{class}` were asked for; the largest has {largest}"
            ))),
            _ => Ok(request),
        }
    }

    fn devices_of(&self, class: &str) -> impl Iterator<Item = &DeviceAccount> {
        self.devices.iter().filter(move |device| device.class == class)
    }

    /// Returns whether `demand` can be met now; one for a device, on the device with number `device`.
    pub(super) fn fits(&self, demand: Demand<'_>, device: Option<usize>) -> bool {
        let request = demand.request;
        request.cpu_millis <= self.cpu_millis.free()
            && self.has_memory(demand)
            && request.named.iter().all(|wanted| !self.is_short_of(wanted))
            && request.device.as_ref().is_none_or(|wanted| {
                let device = device.map(|number| &self.devices[number]);
                device.is_some_and(|device| wanted.class == device.class && device.has_room(wanted))
            })
    }

    fn has_memory(&self, Demand { request, inputs_bytes }: Demand<'_>) -> bool {
        let leaves_room =
            |task_bytes: u64| self.set_aside.needed(request.memory_bytes, task_bytes) <= self.memory.total();
        self.memory.can_hold(request.memory_bytes + inputs_bytes) && request.task_bytes.is_none_or(leaves_room)
    }

    fn is_short_of(&self, wanted: &NamedUnits) -> bool {
        wanted.units > self.named[wanted.resource].units.free()
    }

    /// Returns whether `ahead` and `behind` request a common resource that `ahead` cannot have now.
    pub(super) fn contend(&self, ahead: Demand<'_>, behind: Demand<'_>) -> bool {
        let lacks_memory = ahead.request.memory_bytes + ahead.inputs_bytes > 0 && !self.has_memory(ahead);
        let (inputs_bytes, ahead, behind) = (behind.inputs_bytes, ahead.request, behind.request);
        (ahead.cpu_millis > self.cpu_millis.free() && behind.cpu_millis > 0)
            || (lacks_memory && behind.memory_bytes + inputs_bytes > 0)
            || self.lacks_units_of(ahead, behind)
            || ahead.device.as_ref().is_some_and(|a| behind.device.as_ref().is_some_and(|b| a.class == b.class))
    }

    /// Returns whether `wanted` lacks something now that `held` would give back.
    pub(crate) fn would_help(&self, held: &Grant, wanted: Demand<'_>) -> bool {
        (held.request.memory_bytes > 0 && !self.has_memory(wanted))
            || self.lacks_units_of(wanted.request, &held.request)
    }

    /// Returns whether `request` is short of a named resource that `other` requests too.
    fn lacks_units_of(&self, request: &ResourceRequest, other: &ResourceRequest) -> bool {
        let asks_too = |wanted: &NamedUnits| other.named.iter().any(|units| units.resource == wanted.resource);
        request.named.iter().any(|wanted| self.is_short_of(wanted) && asks_too(wanted))
    }

    /// Takes a request that [`fits`](Self::fits).
    pub(crate) fn take(&mut self, request: &ResourceRequest, device: Option<usize>) -> Grant {
        self.cpu_millis.used += request.cpu_millis;
        self.memory.hold(request.memory_bytes);
        if let Some(task_bytes) = request.task_bytes {
            self.set_aside.take(request.memory_bytes, task_bytes);
        }
        for NamedUnits { resource, units } in &request.named {
            self.named[*resource].units.used += units;
        }
        let device = device.filter(|_| request.device.is_some());
        if let (Some(wanted), Some(number)) = (&request.device, device) {
            self.devices[number].used_bytes += self.devices[number].bytes_of(wanted);
        }
        Grant { request: request.clone(), device }
    }

    pub(crate) fn give(&mut self, Grant { request, device }: Grant) {
        self.cpu_millis.used -= request.cpu_millis;
        self.memory.release(request.memory_bytes);
        if let Some(task_bytes) = request.task_bytes {
            self.set_aside.give(request.memory_bytes, task_bytes);
        }
        for NamedUnits { resource, units } in &request.named {
            self.named[*resource].units.used -= units;
        }
        if let (Some(wanted), Some(number)) = (&request.device, device) {
            self.devices[number].used_bytes -= self.devices[number].bytes_of(wanted);
        }
    }

    /// Gives back the CPU of a call that built an actor's state, and returns what the state holds from now on.
    pub(crate) fn give_call(&mut self, Grant { request, device }: Grant) -> Grant {
        self.give(Grant { request: request.for_call(), device: None });
        Grant { request: ResourceRequest { cpu_millis: 0, ..request }, device }
    }

    /// Returns the largest part of any resource that `request` takes: the price of its time (Ghodsi et al., "Dominant
    /// Resource Fairness", NSDI 2011). The price is at least 0.001, so that the jobs of work that takes nothing rotate.
    pub(crate) fn dominant_share(&self, request: &ResourceRequest) -> f64 {
        let mut share = self.cpu_millis.share(request.cpu_millis).max(1e-3);
        share = share.max(part(request.memory_bytes, self.memory.total()));
        for wanted in &request.named {
            share = share.max(self.named[wanted.resource].units.share(wanted.units));
        }
        if let Some(wanted) = &request.device {
            let (mut count, mut of_one) = (0.0, 1.0f64);
            for device in self.devices_of(&wanted.class) {
                count += 1.0;
                of_one = of_one.min(part(device.bytes_of(wanted), device.memory_bytes));
            }
            share = share.max(of_one / f64::max(count, 1.0));
        }
        share
    }

    /// Describes what `demand` lacks now; `None` when it lacks nothing.
    pub(crate) fn lacks(&self, demand: Demand<'_>) -> Option<String> {
        let request = demand.request;
        let mut lacks = Vec::new();
        if request.cpu_millis > self.cpu_millis.free() {
            let (wanted, free) = (request.cpu_millis as f64 / 1000.0, self.cpu_millis.free() as f64 / 1000.0);
            lacks.push(format!("{wanted} CPU ({free} free)"));
        }
        if !self.has_memory(demand) {
            let (wanted, free) = (request.memory_bytes + demand.inputs_bytes, self.memory.free());
            lacks.push(format!("{wanted} bytes of memory ({free} free)"));
        }
        for wanted in request.named.iter().filter(|wanted| self.is_short_of(wanted)) {
            let account = &self.named[wanted.resource];
            lacks.push(format!("{} `{}` ({} free)", wanted.units, account.name, account.units.free()));
        }
        if let Some(wanted) = &request.device
            && !self.devices_of(&wanted.class).any(|device| device.has_room(wanted))
        {
            lacks.push(format!("room on a `{}`", wanted.class));
        }
        if lacks.is_empty() { None } else { Some(lacks.join(", ")) }
    }

    /// Panics unless the amounts granted are exactly `grants` and `pinned_bytes` of objects, and within the totals.
    #[cfg(test)]
    pub(crate) fn audit(&self, grants: &[Grant], pinned_bytes: u64) {
        let sum = |amount: &dyn Fn(&Grant) -> u64| grants.iter().map(amount).sum::<u64>();
        assert_eq!(self.cpu_millis.used, sum(&|grant| grant.request.cpu_millis), "CPU");
        assert!(self.cpu_millis.used <= self.cpu_millis.total);
        assert_eq!(self.memory.held(), sum(&|grant| grant.request.memory_bytes) + pinned_bytes, "memory");
        assert!(self.memory.has_room(0), "{:?} is over budget", self.memory);
        for (number, account) in self.named.iter().enumerate() {
            let of = |grant: &Grant| {
                grant.request.named.iter().filter(|units| units.resource == number).map(|units| units.units).sum()
            };
            assert_eq!(account.units.used, sum(&of), "{}", account.name);
            assert!(account.units.used <= account.units.total);
        }
        for (number, device) in self.devices.iter().enumerate() {
            let of = |grant: &Grant| match (&grant.request.device, grant.device) {
                (Some(wanted), Some(on)) if on == number => device.bytes_of(wanted),
                _ => 0,
            };
            assert_eq!(device.used_bytes, sum(&of), "device {number}");
            assert!(device.used_bytes <= device.memory_bytes);
        }
    }

    /// Returns the totals, without devices.
    pub(crate) fn total(&self) -> Resources {
        self.resources(|account| account.total, self.memory.total())
    }

    /// Returns the amounts that are held, without devices. Idle objects are not held.
    pub(crate) fn used(&self) -> Resources {
        self.resources(|account| account.used, self.memory.held())
    }

    fn resources(&self, amount: impl Fn(&Account) -> u64, memory_bytes: u64) -> Resources {
        let named = self.named.iter();
        Resources {
            cpu: amount(&self.cpu_millis) as f32 / 1000.0,
            memory_bytes,
            named: named.map(|account| (account.name.clone(), amount(&account.units) as u32)).collect(),
            device: None,
        }
    }
}

fn millis(cpu: f32) -> u64 {
    (f64::from(cpu) * 1000.0).round() as u64
}

fn part(amount: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { amount as f64 / total as f64 }
}
