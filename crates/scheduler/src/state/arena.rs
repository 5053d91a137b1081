//! Values under keys that are never mistaken for those of values that came before.

/// Where a value stands in an [`Arena`]. A key of a value that was removed finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

/// A vector whose places are used again, each under a new generation.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    pub(crate) fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop() {
            let (generation, place) = &mut self.places[index as usize];
            *place = Some(value);
            return Key { index, generation: *generation };
        }
        self.places.push((0, Some(value)));
        Key { index: (self.places.len() - 1) as u32, generation: 0 }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let (generation, place) = self.places.get(key.index as usize)?;
        if *generation == key.generation { place.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (generation, place) = self.places.get_mut(key.index as usize)?;
        if *generation == key.generation { place.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, place) = self.places.get_mut(key.index as usize)?;
        if *generation != key.generation {
            return None;
        }
        let value = place.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places.iter().enumerate().filter_map(|(index, (generation, place))| {
            place.as_ref().map(|value| (Key { index: index as u32, generation: *generation }, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_outlive_its_value() {
        let mut arena = Arena::default();
        let first = arena.insert('a');
        assert_eq!(arena.remove(first), Some('a'));
        let second = arena.insert('b');
        assert_eq!((arena.remove(first), arena.get(first), arena.get(second)), (None, None, Some(&'b')));
        assert_eq!(arena.iter().map(|(key, _)| key).collect::<Vec<_>>(), [second]);
    }
}
