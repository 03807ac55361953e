//! Stories: sentences that state facts, around a small event.

use crate::rng::Rng;

use super::world::{Attribute, Draw, Gender, PEOPLE, Person, World, below, pick, shuffled};

/// Writes story `row`.
pub fn write(world: &World, row: u64) -> String {
    let rng = &mut world.rng(Draw::Story, row);
    let hero = Person(below(rng, PEOPLE));
    let mut story = Story {
        world,
        hero,
        friend: world.friend(hero),
        pronoun: Pronoun::Unclear,
        text: String::new(),
    };
    let order = shuffled(Attribute::ALL.len(), rng);
    let mut told = order
        .into_iter()
        .filter_map(|place| Attribute::ALL.get(place));
    let mut tell = |story: &mut Story<'_>, rng: &mut Rng, count| {
        for attribute in told.by_ref().take(count) {
            story.tell(rng, *attribute);
        }
    };
    // Three ways to tell it: the person first, the event first, or in turns.
    match below(rng, 3) {
        0 => {
            story.say(pick(rng, OPENINGS));
            tell(&mut story, rng, 4);
            story.happen(rng);
        }
        1 => {
            story.say(pick(rng, OPENINGS));
            story.happen(rng);
            tell(&mut story, rng, 4);
        }
        _ => {
            tell(&mut story, rng, 2);
            story.say(pick(rng, OPENINGS));
            story.happen(rng);
            tell(&mut story, rng, 2);
        }
    }
    story.tell_of_friend(rng);
    story.say(pick(rng, CLOSINGS));
    story.text
}

/// Whether "she" or "he" would be understood as the hero.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pronoun {
    Clear,
    Unclear,
}

struct Story<'a> {
    world: &'a World,
    hero: Person,
    friend: Person,
    pronoun: Pronoun,
    text: String,
}

impl Story<'_> {
    /// States a fact about the hero, by name or, where that is clear and the
    /// draw falls so, by pronoun.
    fn tell(&mut self, rng: &mut Rng, attribute: Attribute) {
        let template = pick(rng, statements(attribute));
        // One in three: names bind facts to people more plainly.
        let by_pronoun = below(rng, 3) == 0 && self.pronoun == Pronoun::Clear;
        let (who, whose) = match (by_pronoun, self.hero.gender()) {
            (false, _) => ("{name}", "{name}'s"),
            (true, Gender::She) => ("She", "Her"),
            (true, Gender::He) => ("He", "His"),
        };
        let template = template.replace("{Who}", who).replace("{Whose}", whose);
        self.say(&template);
    }

    /// States a fact about the friend, by name.
    fn tell_of_friend(&mut self, rng: &mut Rng) {
        let about = Attribute::ALL.get(below(rng, 6));
        let template = pick(rng, statements(*about.unwrap_or(&Attribute::Town)));
        let template = template
            .replace("{Who}", "{name}")
            .replace("{Whose}", "{name}'s");
        let mut other = Story {
            world: self.world,
            hero: self.friend,
            friend: self.hero,
            pronoun: Pronoun::Unclear,
            text: std::mem::take(&mut self.text),
        };
        other.say(&template);
        self.text = other.text;
        self.pronoun = Pronoun::Unclear;
    }

    /// The small event of the story.
    fn happen(&mut self, rng: &mut Rng) {
        let [trouble, end] = pick(rng, EVENTS);
        self.say(trouble);
        self.say(end);
    }

    /// Appends a sentence with the facts in their places.
    fn say(&mut self, template: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            self.text.push_str(before);
            let (field, after) = after.split_once('}').unwrap_or((after, ""));
            let value = self.value(field);
            self.text.push_str(value);
            rest = after;
        }
        self.text.push_str(rest);
        self.pronoun = match template.contains("{friend") {
            true => Pronoun::Unclear,
            false => Pronoun::Clear,
        };
    }

    fn value(&self, field: &str) -> &'static str {
        let (person, field) = match field.strip_prefix("friend_") {
            Some(field) => (self.friend, field),
            None => (self.hero, field),
        };
        let fact = |attribute| self.world.fact(person, attribute);
        match (field, person.gender()) {
            ("name", _) => person.name(),
            ("his", Gender::She) | ("him", Gender::She) => "her",
            ("his", Gender::He) => "his",
            ("him", Gender::He) => "him",
            ("town", _) => fact(Attribute::Town),
            ("pet", _) => fact(Attribute::Pet),
            ("pet_name", _) => fact(Attribute::PetName),
            ("food", _) => fact(Attribute::Food),
            ("trade", _) => fact(Attribute::Trade),
            ("door", _) => fact(Attribute::Door),
            ("friend", _) => fact(Attribute::Friend),
            _ => "",
        }
    }
}

const OPENINGS: &[&str] = &[
    "One cold morning {name} woke up early.",
    "On a windy day {name} stayed at home.",
    "It was the first day of spring, and {name} felt happy.",
    "One evening {name} sat by the fire.",
    "Long ago, on a rainy day, {name} was alone.",
    "One summer day {name} went for a walk.",
    "Snow had come in the night, and {name} looked out of the window.",
    "This is a story about {name}.",
];

/// What happens, and how it ends.
const EVENTS: &[[&str; 2]] = &[
    [
        "That day {pet_name} the {pet} ran out through the {door} door.",
        "{friend} found it by the old bridge and brought it home to {name}.",
    ],
    [
        "It rained for hours, and {name} could not go out.",
        "Then {friend} brought {name} a plate of {food}, and they ate and laughed.",
    ],
    [
        "{name} lost the key to the {door} door.",
        "{pet_name} the {pet} found it in the grass.",
    ],
    [
        "{name} the {trade} had too much work to do.",
        "{friend} stayed and helped until the work was done.",
    ],
    [
        "A letter for {name} came to {town}.",
        "It was from {friend}, who wanted to visit soon.",
    ],
    [
        "{name} was sad and did not know why.",
        "Then {pet_name} the {pet} came and stayed close, and all was well.",
    ],
    [
        "{name} wanted to share a plate of {food}.",
        "{friend} knocked at {name}'s {door} door, and soon the plate was empty.",
    ],
    [
        "The wind broke a window of {name}'s house in {town}.",
        "{friend} the {friend_trade} came at once to help.",
    ],
    [
        "There was a feast, and all the people came.",
        "{name} brought {food}, and {friend} brought {friend_food}.",
    ],
    [
        "{name} walked a long way to visit {friend} in {friend_town}.",
        "Behind the {friend_door} door, {friend_pet_name} the {friend_pet} was waiting.",
    ],
    [
        "{friend} came all the way from {friend_town} to visit {name} in {town}.",
        "{name} opened the {door} door and was glad.",
    ],
    [
        "{name} and {friend} played with {pet_name} the {pet}.",
        "They forgot the time, and it grew dark.",
    ],
];

const CLOSINGS: &[&str] = &[
    "That night {name} slept well.",
    "It had been a good day.",
    "{name} and {friend} were glad.",
    "And so the day ended well.",
    "In the evening everyone was happy.",
    "{name} smiled for a long time.",
    "Such days are good to remember.",
];

fn statements(attribute: Attribute) -> &'static [&'static str] {
    match attribute {
        Attribute::Town => &[
            "{Who} lives in {town}.",
            "{Whose} home is in {town}.",
            "{Who} has always lived in {town}.",
            "{Whose} house stands in a quiet street in {town}.",
            "{Whose} home town is {town}.",
            "In {town}, everybody knows {name}.",
        ],
        Attribute::Pet => &[
            "{Who} has a {pet}.",
            "{Who} keeps a {pet} named {pet_name}.",
            "{Whose} pet is a {pet}.",
            "At home, a {pet} waits for {name}.",
            "{Who} shares the house with a {pet}.",
            "{Who} has a {pet} called {pet_name}.",
        ],
        Attribute::PetName => &[
            "{Whose} pet is called {pet_name}.",
            "{Who} named {his} pet {pet_name}.",
            "{Whose} {pet} is called {pet_name}.",
            "{Who} has a pet named {pet_name}.",
            "{pet_name} is the pet of {name}.",
            "{Who} calls {his} {pet} {pet_name}.",
        ],
        Attribute::Food => &[
            "{Whose} favourite food is {food}.",
            "{Who} loves {food} more than any other food.",
            "{Who} could eat {food} every day.",
            "For supper {name} likes {food} best.",
            "Nothing makes {name} happier than a plate of {food}.",
            "{Who} always asks for {food}.",
        ],
        Attribute::Trade => &[
            "{Who} is a {trade}.",
            "{Who} works as a {trade}.",
            "{Who} became a {trade} years ago.",
            "{Whose} work is that of a {trade}.",
            "Everyone says that {name} is a good {trade}.",
            "{Who} has been a {trade} for years.",
        ],
        Attribute::Door => &[
            "{Whose} front door is {door}.",
            "{Who} painted {his} door {door}.",
            "The door of {name}'s house is {door}.",
            "You can find {name} behind the {door} door.",
            "{Whose} house has one {door} door.",
            "The colour of {name}'s door is {door}.",
        ],
        Attribute::Friend => &[
            "{Whose} best friend is {friend}.",
            "{Who} and {friend} are best friends.",
            "{Who} tells {friend} everything.",
            "{friend} is the best friend of {name}.",
            "{Who} trusts {friend} most of all.",
            "{Who} and {friend} have been best friends since school.",
        ],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashSet};

    use expect_test::expect;

    use super::*;

    fn words(text: &str) -> Vec<&str> {
        text.split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect()
    }

    #[test]
    fn a_story_reads_like_this() {
        let world = World::new(1);
        let stories: Vec<_> = (0..3).map(|row| write(&world, row)).collect();
        expect![[r#"
            Long ago, on a rainy day, Lena was alone. Zoe came all the way from Porto to visit Lena in Cairo. Lena opened the yellow door and was glad. Zoe is the best friend of Lena. Lena has always lived in Cairo. Lena has a cat. Everyone says that Lena is a good painter. Zoe is a barber. That night Lena slept well.

            It was the first day of spring, and Nils felt happy. That day Muffin the pony ran out through the red door. Frank found it by the old bridge and brought it home to Nils. Nils painted his door red. Nils has a pet named Muffin. Nils lives in Perth. Nothing makes Nils happier than a plate of cake. Frank keeps a pony named Maple. Such days are good to remember.

            One evening Anna sat by the fire. Anna calls her turtle Misty. At home, a turtle waits for Anna. Anna tells Edith everything. The colour of Anna's door is blue. The wind broke a window of Anna's house in Turin. Edith the gardener came at once to help. Edith works as a gardener. And so the day ended well."#]].assert_eq(&stories.join("\n\n"));
    }

    #[test]
    fn stories_depend_on_seed_and_row_alone() {
        let stories = |seed| {
            let world = World::new(seed);
            (0..500).map(|row| write(&world, row)).collect::<Vec<_>>()
        };
        assert_eq!(stories(1), stories(1));
        assert_eq!(write(&World::new(1), 400), stories(1)[400]);
        let distinct: HashSet<_> = stories(1).into_iter().chain(stories(2)).collect();
        assert_eq!(distinct.len(), 1_000);
    }

    #[test]
    fn stories_are_short_and_their_words_few() {
        let world = World::new(1);
        let mut vocabulary = HashSet::new();
        for row in 0..3_000 {
            let story = write(&world, row);
            let length = words(&story).len();
            assert!((40..=90).contains(&length), "{length} words: {story}");
            vocabulary.extend(words(&story).into_iter().map(String::from));
        }
        assert!(vocabulary.len() < 400, "{} words", vocabulary.len());
    }

    /// Every value that a sentence names is a fact about somebody whom the
    /// sentence is about: those named in it, else the one named before.
    #[test]
    fn every_sentence_agrees_with_the_world() {
        let world = World::new(3);
        let people: BTreeMap<_, _> = Person::all().map(|p| (p.name(), p)).collect();
        let mut stated = BTreeSet::new();
        for row in 0..3_000 {
            let story = write(&world, row);
            let mut about: Vec<Person> = Vec::new();
            for sentence in story.split_inclusive('.') {
                let words = words(sentence);
                let named: Vec<_> = words
                    .iter()
                    .filter_map(|w| people.get(w))
                    .copied()
                    .collect();
                if ["She", "Her", "He", "His"].contains(&words[0]) {
                    // A pronoun is the first person of the sentence before.
                    let woman = ["She", "Her"].contains(&words[0]);
                    assert_eq!(woman, about[0].gender() == Gender::She, "{story}");
                    about.truncate(1);
                    about.extend(named);
                } else if !named.is_empty() {
                    about = named;
                }
                if let [one, other] = *about {
                    assert_eq!(world.friend(one), other, "{sentence}");
                }
                let first = *about.first().unwrap();
                for attribute in Attribute::ALL.into_iter().take(6) {
                    for value in attribute.values().iter().filter(|v| words.contains(*v)) {
                        let mut who = about.clone();
                        if 1 < about.len() {
                            who.push(world.friend(first));
                        }
                        let holds = who.iter().any(|p| world.fact(*p, attribute) == *value);
                        assert!(holds, "{attribute:?} {value}: {sentence} in {story}");
                        stated.insert((first, attribute));
                    }
                }
            }
        }
        assert_eq!(stated.len(), 6 * PEOPLE, "every fact is stated");
    }

    /// Plain statements, read back by patterns written apart from the templates.
    #[test]
    fn plain_statements_agree_with_the_world() {
        let world = World::new(4);
        let people: BTreeMap<_, _> = Person::all().map(|p| (p.name(), p)).collect();
        let patterns = [
            (" lives in ", Attribute::Town),
            (" works as a ", Attribute::Trade),
            ("'s favourite food is ", Attribute::Food),
            ("'s front door is ", Attribute::Door),
            ("'s pet is a ", Attribute::Pet),
            ("'s pet is called ", Attribute::PetName),
            ("'s best friend is ", Attribute::Friend),
        ];
        let mut seen = BTreeSet::new();
        for row in 0..3_000 {
            let story = write(&world, row);
            for sentence in story.split('.') {
                for (pattern, attribute) in patterns {
                    let Some((name, value)) = sentence.trim().split_once(pattern) else {
                        continue;
                    };
                    if let Some(person) = people.get(name) {
                        assert_eq!(world.fact(*person, attribute), value, "{story}");
                        seen.insert((*person, attribute));
                    }
                }
            }
        }
        assert!(7 * PEOPLE * 8 / 10 < seen.len(), "{}", seen.len());
    }
}
