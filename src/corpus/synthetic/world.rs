//! The people of the generated world and the facts about them.

use crate::rng::{Key, Rng, Stream};

/// The people; those in even places are women, those in odd places men.
const NAMES: [&str; 64] = [
    "Mira", "Tom", "Anna", "Ben", "Lena", "Sam", "Nora", "Max", "Ella", "Leo", "Rosa", "Hugo",
    "Tara", "Oscar", "Ines", "Felix", "Vera", "Jack", "Mina", "Paul", "Dora", "Mark", "Lily",
    "Noah", "Emma", "Adam", "Sara", "Carl", "Nina", "David", "Olga", "Emil", "Ruth", "Frank",
    "Jane", "George", "Kate", "Henry", "Maya", "Ivan", "Zoe", "Jonas", "Iris", "Kurt", "Alma",
    "Luke", "Edith", "Martin", "Flora", "Nils", "Greta", "Otto", "Hanna", "Peter", "Julia",
    "Ralph", "Karin", "Simon", "Laura", "Theo", "Paula", "Victor", "Wanda", "Walter",
];
/// How many people there are.
pub const PEOPLE: usize = NAMES.len();

const TOWNS: [&str; 16] = [
    "Oslo", "Lima", "Bergen", "Porto", "Cairo", "Kyoto", "Delhi", "Quito", "Turin", "Malmo",
    "Tunis", "Perth", "Dakar", "Bonn", "Leeds", "Riga",
];
const PETS: [&str; 8] = [
    "cat", "dog", "rabbit", "goat", "parrot", "pony", "turtle", "hen",
];
const PET_NAMES: [&str; 16] = [
    "Pepper", "Biscuit", "Button", "Clover", "Ginger", "Maple", "Pickle", "Pebble", "Acorn",
    "Bramble", "Cocoa", "Dusty", "Misty", "Muffin", "Poppy", "Waffle",
];
const FOODS: [&str; 16] = [
    "bread",
    "noodles",
    "pancakes",
    "rice",
    "cheese",
    "plums",
    "beans",
    "dumplings",
    "apples",
    "pie",
    "figs",
    "olives",
    "carrots",
    "pears",
    "cake",
    "peas",
];
const TRADES: [&str; 16] = [
    "baker",
    "tailor",
    "farmer",
    "teacher",
    "doctor",
    "painter",
    "sailor",
    "gardener",
    "miller",
    "potter",
    "weaver",
    "carpenter",
    "barber",
    "fisher",
    "printer",
    "singer",
];
const DOORS: [&str; 8] = [
    "red", "blue", "green", "yellow", "white", "black", "purple", "orange",
];

/// What can be known about a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// The home town.
    Town,
    /// The kind of pet.
    Pet,
    /// The pet's name.
    PetName,
    /// The favourite food.
    Food,
    /// The trade.
    Trade,
    /// The colour of the door.
    Door,
    /// The best friend.
    Friend,
}

impl Attribute {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Town,
        Self::Pet,
        Self::PetName,
        Self::Food,
        Self::Trade,
        Self::Door,
        Self::Friend,
    ];

    /// The values it can have.
    pub fn values(self) -> &'static [&'static str] {
        match self {
            Self::Town => &TOWNS,
            Self::Pet => &PETS,
            Self::PetName => &PET_NAMES,
            Self::Food => &FOODS,
            Self::Trade => &TRADES,
            Self::Door => &DOORS,
            Self::Friend => &NAMES,
        }
    }

    /// The number of this attribute in a key.
    pub fn item(self) -> u64 {
        self as u64
    }
}

/// Whether a person is spoken of as "she" or "he".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gender {
    /// She, her.
    She,
    /// He, his.
    He,
}

/// One of the people, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Person(pub usize);

impl Person {
    /// Everybody.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PEOPLE).map(Self)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        NAMES.get(self.0).copied().unwrap_or_default()
    }

    /// How to speak of the person.
    pub fn gender(self) -> Gender {
        match self.0 % 2 {
            0 => Gender::She,
            _ => Gender::He,
        }
    }
}

/// Parts of the key of a seed: what is drawn with it.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Draw {
    /// The facts.
    World = 0,
    /// A story.
    Story = 1,
    /// Which facts are held out of the questions.
    Split = 2,
    /// The wording of a question.
    Question = 3,
}

/// The facts, a function of the seed.
#[derive(Clone, Debug)]
pub struct World {
    key: Key,
    facts: Vec<[&'static str; 6]>,
    friends: Vec<Person>,
}

impl World {
    /// Deals the values of each attribute to people at random and equally
    /// often, so that no answer is likelier than another.
    pub fn new(seed: u64) -> Self {
        let key = Key::new(seed).stream(Stream::Synthetic);
        let draw = key.item(Draw::World as u64);
        let mut facts = vec![[""; 6]; PEOPLE];
        for (place, attribute) in Attribute::ALL.into_iter().take(6).enumerate() {
            let people = shuffled(PEOPLE, &mut draw.item(attribute.item()).rng());
            let values = attribute.values().iter().cycle();
            for (person, value) in people.into_iter().zip(values) {
                if let Some(fact) = facts.get_mut(person).and_then(|own| own.get_mut(place)) {
                    *fact = value;
                }
            }
        }
        let mut friends: Vec<_> = Person::all().collect();
        let people = shuffled(PEOPLE, &mut draw.item(Attribute::Friend.item()).rng());
        for couple in people.chunks_exact(2) {
            if let [one, other] = *couple {
                friends.splice(one..=one, [Person(other)]);
                friends.splice(other..=other, [Person(one)]);
            }
        }
        Self {
            key,
            facts,
            friends,
        }
    }

    /// The fact about a person.
    pub fn fact(&self, person: Person, attribute: Attribute) -> &'static str {
        if attribute == Attribute::Friend {
            return self.friend(person).name();
        }
        let place = Attribute::ALL.iter().position(|other| *other == attribute);
        let own = self.facts.get(person.0);
        own.zip(place)
            .and_then(|(own, place)| own.get(place).copied())
            .unwrap_or_default()
    }

    /// A person's best friend, whose best friend that person is.
    pub fn friend(&self, person: Person) -> Person {
        self.friends.get(person.0).copied().unwrap_or(person)
    }

    /// Random numbers for one item.
    pub fn rng(&self, draw: Draw, item: u64) -> Rng {
        self.key.item(draw as u64).item(item).rng()
    }
}

/// The numbers below `len` in random order (Durstenfeld, 1964).
pub fn shuffled(len: usize, rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<_> = (0..len).collect();
    for end in (1..len).rev() {
        order.swap(end, below(rng, end + 1));
    }
    order
}

/// A random number below `bound`.
pub fn below(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap_or_default()
}

/// One of `items`.
pub fn pick<T: Copy + Default>(rng: &mut Rng, items: &[T]) -> T {
    items
        .get(below(rng, items.len()))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn no_word_is_a_value_of_two_attributes() {
        let mut seen = HashSet::new();
        for attribute in Attribute::ALL {
            for value in attribute.values() {
                assert!(seen.insert(value), "{value} is there twice");
            }
        }
    }

    #[test]
    fn values_are_dealt_equally() {
        let world = World::new(5);
        for attribute in Attribute::ALL {
            let mut counts = BTreeMap::new();
            for person in Person::all() {
                *counts.entry(world.fact(person, attribute)).or_insert(0) += 1;
            }
            let expected = PEOPLE / attribute.values().len();
            assert_eq!(counts.len(), attribute.values().len());
            assert!(
                counts.values().all(|count| *count == expected),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn friendship_is_mutual_and_never_with_oneself() {
        let world = World::new(6);
        for person in Person::all() {
            assert_ne!(world.friend(person), person);
            assert_eq!(world.friend(world.friend(person)), person);
        }
    }

    #[test]
    fn seeds_make_different_worlds() {
        let facts = |seed| {
            let world = World::new(seed);
            let fact = |person| world.fact(person, Attribute::Town);
            Person::all().map(fact).collect::<Vec<_>>()
        };
        assert_eq!(facts(1), facts(1));
        assert_ne!(facts(1), facts(2));
    }
}
