//! Questions about the world: 70 % of the facts are asked for, the others held out.

use super::world::{Attribute, Draw, PEOPLE, Person, World, pick, shuffled};

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// About one person.
    pub question: String,
    /// One word.
    pub answer: &'static str,
}

type Fact = (Person, Attribute);

/// Facts of each attribute that are held out; of friendships a whole couple
/// at a time, since one half tells the other.
const HELD_OUT_EACH: usize = 19;
const HELD_OUT_COUPLES: usize = 10;

/// How many held-out questions there are.
pub const HELD_OUT: u64 = 6 * HELD_OUT_EACH as u64 + 2 * HELD_OUT_COUPLES as u64;

/// The question of document `row`: each round asks for all facts once, in
/// another order and other words.
pub fn asked(world: &World, row: u64) -> Question {
    let (asked, _) = split(world);
    let n_facts = asked.len() as u64;
    let (round, place) = (row / n_facts, row % n_facts);
    let order = shuffled(asked.len(), &mut world.rng(Draw::Question, round));
    let fact = usize::try_from(place)
        .ok()
        .and_then(|place| asked.get(*order.get(place)?));
    phrase(world, fact, row)
}

/// The held-out question of document `row`, in a fixed order that mixes attributes.
pub fn held_out(world: &World, row: u64) -> Option<Question> {
    let (_, held_out) = split(world);
    let fact = held_out.get(usize::try_from(row).ok()?)?;
    Some(phrase(world, Some(fact), !row))
}

/// The facts that are asked for and those that are held out, each in random order.
pub fn split(world: &World) -> (Vec<Fact>, Vec<Fact>) {
    let mut asked = Vec::new();
    let mut held_out = Vec::new();
    for attribute in Attribute::ALL {
        let order = shuffled(PEOPLE, &mut world.rng(Draw::Split, attribute.item()));
        let mut people: Vec<_> = order.into_iter().map(Person).collect();
        let mut n_held_out = HELD_OUT_EACH;
        if attribute == Attribute::Friend {
            people.retain(|person| *person < world.friend(*person));
            people = people
                .into_iter()
                .flat_map(|person| [person, world.friend(person)])
                .collect();
            n_held_out = 2 * HELD_OUT_COUPLES;
        }
        let facts = people.into_iter().map(|person| (person, attribute));
        held_out.extend(facts.clone().take(n_held_out));
        asked.extend(facts.skip(n_held_out));
    }
    let mix = |facts: Vec<Fact>, item| {
        let order = shuffled(facts.len(), &mut world.rng(Draw::Split, item));
        let pick = |place: usize| facts.get(place).copied();
        order.into_iter().filter_map(pick).collect::<Vec<_>>()
    };
    (mix(asked, 100), mix(held_out, 101))
}

fn phrase(world: &World, fact: Option<&Fact>, row: u64) -> Question {
    let (person, attribute) = *fact.unwrap_or(&(Person(0), Attribute::Town));
    let wordings = wordings(attribute);
    // Separate from the numbers that order the rounds.
    let mut rng = world.rng(Draw::Question, row ^ (1 << 63));
    Question {
        question: pick(&mut rng, wordings).replace("{name}", person.name()),
        answer: world.fact(person, attribute),
    }
}

fn wordings(attribute: Attribute) -> &'static [&'static str] {
    match attribute {
        Attribute::Town => &[
            "Where does {name} live?",
            "In which town does {name} live?",
            "What is the home town of {name}?",
            "Where is the home of {name}?",
        ],
        Attribute::Pet => &[
            "What pet does {name} have?",
            "What kind of pet does {name} keep?",
            "Which animal lives with {name}?",
            "What animal is the pet of {name}?",
        ],
        Attribute::PetName => &[
            "What is the name of the pet of {name}?",
            "What does {name} call the pet?",
            "What is {name}'s pet called?",
            "What did {name} name the pet?",
        ],
        Attribute::Food => &[
            "What is the favourite food of {name}?",
            "What does {name} love to eat?",
            "Which food does {name} like best?",
            "What is {name}'s favourite food?",
        ],
        Attribute::Trade => &[
            "What is the trade of {name}?",
            "What does {name} work as?",
            "What is {name}'s work?",
            "What work does {name} do?",
        ],
        Attribute::Door => &[
            "What colour is the door of {name}?",
            "What is the colour of {name}'s door?",
            "Which colour did {name} paint the door?",
            "What colour is {name}'s front door?",
        ],
        Attribute::Friend => &[
            "Who is the best friend of {name}?",
            "Who is {name}'s best friend?",
            "What is the best friend of {name} called?",
            "Whom does {name} trust most?",
        ],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    /// The facts that questions ask for, by their words alone.
    fn readings() -> HashMap<String, Fact> {
        let mut readings = HashMap::new();
        for person in Person::all() {
            for attribute in Attribute::ALL {
                for wording in wordings(attribute) {
                    let question = wording.replace("{name}", person.name());
                    let other = readings.insert(question, (person, attribute));
                    assert_eq!(other, None, "{wording}");
                }
            }
        }
        readings
    }

    #[test]
    fn held_out_facts_are_never_asked_for() {
        let readings = readings();
        for seed in [1, 2, 3] {
            let world = World::new(seed);
            let held_out: Vec<_> = (0..HELD_OUT)
                .map(|row| held_out(&world, row).unwrap())
                .collect();
            assert_eq!(super::held_out(&world, HELD_OUT), None);
            let held_out: Vec<_> = held_out.iter().map(|q| readings[&q.question]).collect();
            let distinct: HashSet<_> = held_out.iter().copied().collect();
            assert_eq!(distinct.len() as u64, HELD_OUT);
            let asked: HashSet<_> = (0..2_000)
                .map(|row| readings[&asked(&world, row).question])
                .collect();
            assert!(asked.is_disjoint(&distinct));
            assert_eq!(asked.len() + distinct.len(), 7 * PEOPLE);
            // Both halves of a friendship are on the same side.
            for (person, attribute) in &distinct {
                if *attribute == Attribute::Friend {
                    assert!(distinct.contains(&(world.friend(*person), *attribute)));
                }
            }
            let first: HashSet<_> = held_out.iter().take(30).map(|(_, a)| *a).collect();
            assert_eq!(first.len(), 7, "the first questions mix all attributes");
        }
    }

    #[test]
    fn answers_are_the_facts_and_rounds_ask_for_each_once() {
        let world = World::new(1);
        let readings = readings();
        let n_facts = split(&world).0.len() as u64;
        let mut wordings = HashSet::new();
        for round in 0..3 {
            let mut seen = HashSet::new();
            for row in round * n_facts..(round + 1) * n_facts {
                let question = asked(&world, row);
                let (person, attribute) = readings[&question.question];
                assert_eq!(question.answer, world.fact(person, attribute));
                assert!(seen.insert((person, attribute)));
                wordings.insert(question.question);
            }
        }
        // With four wordings three rounds repeat some, but not most.
        assert!(n_facts * 3 / 2 < wordings.len() as u64);
    }
}
