"""
Build `questions_train.jsonl`: questions with weights over four granularity levels, from families of phrasings.

    python training/corpora/build_questions.py            # writes the corpus beside this file and prints its report
    python training/corpora/build_questions.py --check    # only the report; fails if the file on disk is out of date

A *family* is one way of needing an image: "which part of this object is damaged". It has a task, weights over coarse,
medium, fine and finest (per cent), and several phrasings with slots (`{animal}`, `{animal:a}` with its article,
`{animal:s}` in the plural, `{animal2}` for a second, different one). A question is a phrasing with its slots filled,
then dressed without regard to its level: context sentences, politeness, multiple choice, "Answer in one word.", typos.
So only its meaning gives the level away. Families, not questions, are split into train and dev.

To extend the corpus, add words to SLOTS or a family to FAMILIES, and run the script. README.md beside it is the data
card.
"""

import argparse
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


LEVELS = ("coarse", "medium", "fine", "finest")
SEED = 20
QUESTIONS_PER_LEVEL = 1500
DEV_SHARE = 0.15
HERE = Path(__file__).parent
OUTPUT, HELDOUT = HERE / "questions_train.jsonl", HERE / "questions_heldout.jsonl"


# ---------------------------------------------------------------------------------------------------------------------
# Words. A slot takes any word of its list; the nouns serve all levels alike, so that no noun stands for a level.


def words(text: str) -> list[str]:
    return [" ".join(word.split()) for word in text.split(",") if word.strip()]


SLOTS = {
    "pic": words("picture, photo, image, snapshot, shot, frame, photograph, scene"),
    "place": words(
        """beach, kitchen, hospital ward, library, construction site, airport lounge, farmyard, subway station,
        church, supermarket, forest trail, classroom, parking garage, harbour, bakery, gym, desert road, ski slope,
        museum hall, courtroom, factory floor, campsite, living room, laundromat, vineyard, stadium, playground,
        greenhouse, bus stop, train platform, rooftop terrace, nightclub, barn, city square, swimming pool, mountain
        pass, fish market, office, bathroom, warehouse, hotel lobby, garden, zoo, pub, canteen, cemetery, car park,
        dentist's practice, attic, quay"""
    ),
    "event": words(
        """wedding, birthday party, funeral, protest march, concert, football match, graduation, street festival,
        parade, business meeting, family dinner, auction, marathon, religious ceremony, job interview, flea market,
        picnic, press conference, theatre rehearsal, school trip, carnival, science fair, book signing, baby shower,
        rowing race, prize-giving, housewarming, political rally, village fete, fashion show"""
    ),
    "mood": words(
        """cheerful, gloomy, tense, peaceful, festive, lonely, romantic, eerie, chaotic, nostalgic, solemn, playful,
        cosy, dramatic, melancholic, hopeful, hectic, serene, threatening, dreamy, hostile, welcoming, sombre,
        lively"""
    ),
    "weather": words("sunny, rainy, foggy, snowy, stormy, overcast, windy, frosty, humid, hazy, clear"),
    "season": words("spring, summer, autumn, winter, the monsoon, the dry season, harvest time, Christmas time"),
    "daytime": words("early morning, midday, late afternoon, sunset, dusk, midnight, sunrise, evening"),
    "era": words(
        """the 1920s, the 1950s, the seventies, the 1980s, the nineties, the Middle Ages, Victorian times, the present
        day"""
    ),
    "kind": words(
        """photograph, oil painting, cartoon, 3D rendering, pencil sketch, screenshot, satellite image, watercolour,
        comic         strip, collage, blueprint, selfie, film still, advertisement, meme, video game, woodcut, mural,
        diagram, postcard, passport photo, press photo, children's drawing, album cover, thermal image,
        black-and-white print"""
    ),
    "style": words(
        "impressionist, cubist, baroque, minimalist, pop art, surreal, photorealistic, gothic, manga, folk"
    ),
    "land": words(
        "Norway, Morocco, Japan, Brazil, Scotland, India, Canada, Italy, Kenya, Mexico, Vietnam, Greece, Peru, Turkey"
    ),
    "landscape": words(
        """desert, tundra, rainforest, farmland, coast, wetland, alpine valley, savanna, suburb, prairie, canyon, old
        town"""
    ),
    "audience": words(
        """a small child, a blind friend, my mother, a tourist, a news reader, a visually impaired visitor, a
        teenager, an art student, someone on the phone, a person in a hurry, a foreign visitor, my grandfather"""
    ),
    "person": words(
        """man, woman, boy, girl, lady, waiter, nurse, chef, cyclist, goalkeeper, teacher, policeman, farmer, dancer,
        bride, old man, teenager, tourist, fisherman, mechanic, painter, surgeon, skier, pianist, customer, driver,
        baby, toddler, athlete, soldier, singer, passenger, builder, hiker, student, cashier, monk, clown, runner,
        gardener"""
    ),
    "doing": words(
        """riding a bike, cooking, reading a book, talking on the phone, climbing, swimming, waving, sleeping,
        drinking         coffee, playing chess, washing the dishes, painting a wall, feeding birds, dancing, repairing
        an engine, running, jumping, pushing a cart, taking a photo, carrying a box, fishing, digging, arguing,
        clapping, crossing the road, sweeping the floor, pouring water, typing, kneeling, hugging a friend, playing
        the guitar, skating, watering plants"""
    ),
    "animal": words(
        """dog, cat, horse, cow, sheep, goat, duck, parrot, elephant, giraffe, zebra, lion, bear, rabbit, fox, owl,
        pigeon, squirrel, monkey, tortoise, snake, frog, penguin, camel, donkey, pig, deer, swan, hen, kangaroo,
        panda, otter, seagull, crocodile, hedgehog, wolf, goldfish, butterfly, bee, lizard, peacock, hamster, dolphin,
        crab"""
    ),
    "vehicle": words(
        """car, bus, truck, motorbike, bicycle, tram, tractor, van, scooter, ambulance, taxi, fire engine, train,
        boat, canoe, ferry, helicopter, aeroplane, hot-air balloon, caravan, forklift, sailing boat, pickup, police
        car, yacht"""
    ),
    "thing": words(
        """table, chair, sofa, lamp, bookshelf, wardrobe, mirror, rug, bed, desk, bench, stool, cupboard, cushion,
        curtain, hammer, ladder, bucket, broom, screwdriver, wrench, saw, rope, shovel, wheelbarrow, laptop, phone,
        camera, printer, television, radio, headset, keyboard, kettle, toaster, microwave, fridge, frying pan, cup,
        plate, bottle, jug, basket, suitcase, backpack, handbag, umbrella, vase, candle, teddy bear, doll, kite,
        football, skateboard, drum, guitar, violin, piano, book, notebook, envelope, parcel, pencil, scissors case,
        bin, mailbox, hydrant, tent, statue, fountain, flag, balloon, bell, globe, helmet, tripod, pram, wheelchair,
        crate, barrel, watering can, birdcage, fan, iron, razor, toothbrush, towel, pillow, teapot, chessboard, clock,
        painting, telescope, microscope, anchor"""
    ),
    "container": words(
        "cup, glass, bottle, bucket, jug, tank, bowl, basket, bin, barrel, box, jar, bathtub, flask, sack, tray"
    ),
    "transport": words("bus, tram, train, ferry, coach, metro, shuttle, night bus, express"),
    "spot": words(
        """table, window, door, tree, bench, sofa, bridge, wall, fence, shelf, counter, car, staircase, bed, river,
        tent, fireplace, gate, roof, bar, stage, fountain, hedge, lamp post, desk, pool, cupboard, garage, sink,
        kiosk"""
    ),
    "food": words(
        """pizza, apple, sandwich, cake, soup, banana, salad, bread, cheese, burger, steak, noodles, egg, strawberry,
        fish, pancake, doughnut, sushi, omelette, pie, carrot, tomato, pear, mango, croissant, biscuit, potato,
        avocado"""
    ),
    "garment": words(
        """shirt, coat, dress, jacket, jumper, skirt, scarf, hat, pair of jeans, uniform, apron, blouse, hoodie,
        raincoat, glove, boot, trainer, sandal, tie, belt, cap, waistcoat, cardigan, swimsuit, robe, cloak"""
    ),
    "plant": words(
        "rose, cactus, fern, orchid, oak, palm, sunflower, tulip, ivy, bonsai, lily, vine, pine, daisy, maple"
    ),
    "building": words(
        "house, tower, barn, castle, cottage, church, skyscraper, shed, lighthouse, mill, temple, bungalow"
    ),
    "instrument": words(
        """grasper, scissors, clip applier, electrocautery hook, suction tip, needle holder, stapler, bipolar forceps,
        trocar, retractor, irrigator, scalpel, retrieval bag, drain, swab, ultrasonic shears, catheter, endoscope"""
    ),
    "organ": words(
        """gallbladder, liver, stomach, uterus, colon, spleen, appendix, kidney, bladder, small bowel, ovary, omentum,
        diaphragm, lung, heart, pancreas, oesophagus, prostate, thyroid, eye"""
    ),
    "vessel": words("cystic duct, cystic artery, renal artery, ureter, portal vein, uterine artery, bile duct, aorta"),
    "operation": words(
        """laparoscopic cholecystectomy, appendectomy, hysterectomy, cataract operation, hernia repair, prostatectomy,
        gastric bypass, nephrectomy, knee arthroscopy, thyroidectomy, sleeve gastrectomy, bronchoscopy, colectomy"""
    ),
    "phase": words(
        """preparation, port placement, exposure of the field, dissection, clipping and cutting, haemostasis,
        suturing, specimen retrieval, cleaning and coagulation, closure, lens implantation, irrigation"""
    ),
    "modality": words(
        """X-ray, CT, MRI, ultrasound, PET scan, mammogram, fundus photograph, histology slide, endoscopy image,
        angiogram, dermoscopy image, OCT scan, echocardiogram"""
    ),
    "bodypart": words(
        """chest, knee, skull, hand, abdomen, spine, pelvis, ankle, breast, shoulder, brain, jaw, neck, hip, wrist,
        heart"""
    ),
    "finding": words(
        """fracture, pleural effusion, nodule, tumour, cyst, haemorrhage, kidney stone, polyp, ulcer, aneurysm, stent,
        catheter, hip prosthesis, pneumothorax, chest tube, screw, gallstone, swelling, lesion, metal plate"""
    ),
    "lesion": words(
        "lesion, mole, nodule, tumour, cyst, ulcer, rash, scar, wound, polyp, plaque, opacity, mass, bruise"
    ),
    "paper": words(
        """invoice, receipt, contract, letter, passport, menu, timetable, newspaper page, form, certificate, flyer,
        memo, ticket, recipe, bank statement, cheque, prescription, CV, exam paper, brochure, research article, tax
        return, payslip, poster, delivery note, calendar page, greeting card, manual, score sheet, questionnaire"""
    ),
    "block": words(
        """table, logo, signature, stamp, photograph, footnote, barcode, QR code, letterhead, page footer, sidebar,
        figure, bulleted list, heading, watermark, margin note, address block, column of figures, tick box, coat of
        arms"""
    ),
    "topic": words(
        """finance, health, politics, sport, education, travel, cooking, climate, technology, law, fashion,
        agriculture, history, housing, energy, science"""
    ),
    "chart": words(
        """bar chart, line graph, pie chart, scatter plot, histogram, heat map, box plot, area chart, radar chart,
        treemap, stacked bar chart, bubble chart, flow chart, Gantt chart, candlestick chart"""
    ),
    "graph": words("chart, graph, plot, figure, diagram, panel"),
    "series": words(
        """Germany, Japan, the control group, product B, group A, the north region, the blue team, coal, wind power,
        Brazil, the placebo arm, store 2, the youngest group, the women's group, rice, the test set, Canada, gas"""
    ),
    "category": words(
        """January, May, August, 2012, 2018, Q3, Monday, Friday, week 6, France, Canada, the south, apples, diesel,
        1995, ages 18 to 24, the last year, store 4, model X, the first quarter"""
    ),
    "quantity": words(
        """revenue, rainfall, temperature, unemployment, population, accuracy, price, speed, emissions, output,
        weight, debt"""
    ),
    "screen": words(
        "website, app, dashboard, login page, dialog window, spreadsheet, phone screen, settings menu, inbox"
    ),
    "widget": words(
        """search bar, submit button, shopping-cart icon, menu icon, profile picture, scroll bar, close button,
        drop-down         list, cookie banner, progress bar, video player, check box, chat bubble, navigation bar,
        share button, toggle"""
    ),
    "colour": words(
        """red, blue, green, yellow, black, white, brown, grey, orange, purple, pink, beige, turquoise, golden,
        silver, dark green, navy, light blue, maroon, cream"""
    ),
    "material": words(
        """wood, metal, glass, plastic, leather, cotton, stone, brick, wool, ceramic, paper, bamboo, marble, rubber,
        silk, concrete, wicker, denim, velvet, steel, copper, cardboard, linen, clay"""
    ),
    "shape": words(
        "round, square, oval, triangular, rectangular, heart-shaped, hexagonal, flat, pointed, curved, conical"
    ),
    "pattern": words(
        "striped, checked, dotted, floral, plain, zigzag, tartan, camouflage, paisley, leopard, herringbone"
    ),
    "texture": words(
        "rough, smooth, fluffy, shiny, bumpy, silky, grainy, ribbed, slippery, woolly, spiky, velvety, scaly"
    ),
    "face": words("happy, sad, angry, surprised, bored, frightened, tired, proud, confused, disgusted, worried, calm"),
    "damage": words("scratch, dent, crack, hole, stain, tear, chip, rust spot, burn mark, bend, missing piece, leak"),
    "lettered": words(
        """sign, billboard, shop front, T-shirt, bottle, banner, poster, jar, box, cap, mug, wall, van, whiteboard,
        book         cover, wristband, parcel, plaque, sticker, screen, paper bag, can, gravestone, tin, lid, ship's
        hull, trophy, bib, badge, door, notice board, milk carton, cereal box, leaflet, label, placard, tombstone,
        crate, wine bottle"""
    ),
    "word": words(
        """STOP, EXIT, open, sale, danger, private, welcome, fragile, organic, free, police, hotel, push, closed,
        caution, new, taxi, paid, urgent, draft, void, hot, made in Italy, no entry, bakery, toilets, level 2,
        gluten-free"""
    ),
    "side": words("left, right"),
    "corner": words(
        "top left corner, top right corner, bottom left corner, bottom right corner, centre, background, foreground"
    ),
    "ordinal": words("first, second, third, fourth, fifth, last, penultimate"),
    "number": words("2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 17, 20, 24"),
    "toy": words("chess piece, domino, playing card, puzzle piece, marble, board-game token, building block, toy car"),
    "adult": words(
        "man, woman, waiter, nurse, chef, teacher, policeman, farmer, dancer, singer, painter, driver, student"
    ),
    "pet": words(
        "dog, cat, horse, parrot, rabbit, goat, tortoise, donkey, lizard, hamster, pony, calf, lamb, puppy, kitten"
    ),
    "device": words(
        "phone, laptop, camera, radio, oven, dishwasher, router, drill, watch, printer, television, thermostat"
    ),
}
SLOTS["object"] = SLOTS["thing"] + SLOTS["vehicle"] + SLOTS["animal"] + SLOTS["garment"] + SLOTS["plant"]

# Slots that belong together: `{owner}` and `{part}` are drawn as one pair, and so on.
PAIRS = {
    ("owner", "part"): {
        "dog": "ear, tail, nose, collar, front paw, coat, muzzle",
        "cat": "eyes, whiskers, tail, fur, left ear, paws", "horse": "mane, saddle, hoof, tail, bridle, hind legs",
        "cow": "horns, udder, ear tag, coat, nose", "parrot": "beak, wing, crest, tail feathers, claws",
        "duck": "bill, webbed feet, neck, wing feathers", "elephant": "trunk, tusks, ears, skin, toenails",
        "lion": "mane, paws, tail, teeth", "butterfly": "wings, antennae, body, wing edges",
        "fish": "fins, scales, tail fin, gills, belly", "crab": "claws, shell, eyes, legs",
        "deer": "antlers, ears, flank, hooves",
        "car": "bumper, headlight, door, roof, rear window, wing mirror, tyre, number-plate frame, bonnet",
        "bicycle": "handlebar, saddle, front wheel, chain, pedals, frame, basket",
        "bus": "windscreen, door, rear wheel, roof, mirror", "motorbike": "exhaust, seat, headlamp, tank, kickstand",
        "aeroplane": "wing, nose, tail fin, engine, landing gear", "boat": "hull, sail, mast, oars, deck, bow",
        "train": "front, doors, windows, wheels, undercarriage",
        "chair": "backrest, legs, seat, armrest, upholstery", "table": "legs, top, edge, drawer, corners",
        "sofa": "cushions, armrest, cover, feet, seams", "lamp": "shade, base, cord, bulb, switch",
        "door": "handle, frame, hinge, lock, knocker, glass panel",
        "house": "roof, chimney, front door, shutters, facade, windows, gutter",
        "tower": "spire, top, base, balcony, clock face", "bridge": "railing, arches, pillars, cables, surface",
        "cup": "handle, rim, inside, saucer, base", "bottle": "cap, neck, cork, label edge, bottom",
        "teapot": "spout, lid, handle, glaze", "knife": "blade, handle, tip, edge",
        "hammer": "head, grip, claw, shaft", "scissors": "blades, finger loops, screw, tips",
        "laptop": "screen, keyboard, hinge, lid, trackpad",
        "phone": "screen, case, camera bump, back, charging port", "watch": "strap, dial, hands, buckle, case",
        "guitar": "neck, strings, body, headstock, pickguard", "violin": "bow, scroll, strings, chin rest",
        "book": "spine, cover, corners, pages, binding", "suitcase": "wheels, handle, zip, lock, corners",
        "backpack": "straps, front pocket, zip, lining", "umbrella": "handle, canopy, tip, ribs",
        "shirt": "collar, sleeves, cuffs, pocket, hem, back", "coat": "hood, lining, belt, lapels, collar, zip",
        "dress": "neckline, waistband, hem, straps, train", "shoe": "laces, sole, heel, tongue, toe cap",
        "hat": "brim, band, crown, feather", "man": "beard, hair, hands, face, glasses, moustache, left arm, knees",
        "woman": "hair, lips, eyebrows, earrings, nails, face, right hand, necklace",
        "boy": "hair, knees, shoelaces, teeth, cheeks, cap", "girl": "braids, fringe, smile, freckles, hands, dress",
        "bride": "veil, dress, bouquet, hair, gloves", "baby": "cheeks, hands, bib, hair, feet",
        "statue": "head, arm, nose, base, robe", "doll": "eyes, dress, hair, face, arms",
        "tree": "bark, trunk, leaves, crown, roots", "rose": "petals, stem, thorns, bud, leaves",
        "cactus": "spines, flower, pot, ribs", "mushroom": "cap, stem, gills, underside",
        "cake": "icing, top layer, filling, base, crust", "bread": "crust, crumb, cut surface, top",
        "apple": "skin, stalk, core, flesh", "fridge": "door, shelves, handle, seal",
        "gate": "hinges, bars, latch, posts", "mirror": "frame, glass, edge, stand",
        "flag": "stripes, border, fabric, emblem, pole", "kite": "tail, frame, string, fabric",
        "tent": "flap, poles, fabric, pegs", "grasper": "jaws, shaft, tip", "clip applier": "tip, jaws, shaft",
        "needle": "tip, eye, curve, shaft",
    },
    ("subject", "state", "unstate"): {
        "door": "open, closed", "window": "shut, wide open", "gate": "locked, unlocked", "fridge": "open, shut",
        "curtain": "drawn, pulled back", "lamp": "switched on, off", "television": "on, off",
        "laptop": "open, folded", "oven": "on, cold", "candle": "burning, blown out", "fire": "burning, out",
        "tap": "running, closed", "glass": "full, empty", "bottle": "sealed, opened", "cup": "half full, empty",
        "bucket": "empty, full", "bin": "overflowing, empty", "suitcase": "packed, open", "zip": "done up, undone",
        "jacket": "buttoned, open", "shirt": "tucked in, hanging out", "tie": "straight, crooked",
        "umbrella": "folded, open", "flag": "raised, lowered", "banana": "ripe, green", "avocado": "ripe, hard",
        "tomato": "ripe, rotten", "steak": "cooked through, raw", "bread": "fresh, mouldy", "egg": "boiled, raw",
        "cake": "burnt, golden", "apple": "bitten, whole", "plant": "wilted, healthy", "flower": "blooming, faded",
        "lawn": "mown, overgrown", "leaf": "dry, fresh", "tyre": "inflated, flat", "bonnet": "raised, down",
        "indicator": "flashing, off", "sail": "hoisted, furled", "towel": "wet, dry", "road surface": "wet, dry",
        "floor": "clean, dirty", "plate": "dirty, clean", "carpet": "stained, spotless", "mirror": "cracked, intact",
        "vase": "broken, whole", "rope": "frayed, new", "fence": "freshly painted, peeling", "wall": "damp, dry",
        "knot": "loose, tight", "knife": "blunt, sharp", "pencil": "sharpened, blunt", "bed": "made, unmade",
        "seat belt": "fastened, undone", "shoelace": "tied, loose", "drawer": "pulled out, closed", "lid": "on, off",
        "bandage": "clean, soaked", "jaw of the grasper": "open, closed",
        "clip on the duct": "fully closed, half open", "needle tip": "bent, straight",
        "bone end": "displaced, aligned", "mouth of the baby": "open, closed", "left eye of the cat": "open, shut",
        "wing of the bird": "spread, folded", "back of the chair": "broken, sound", "sole of the shoe": "worn, new",
        "hood of the coat": "up, down",
    },
    ("carrier", "specks"): {
        "ladybird": "spots", "coat": "buttons", "blouse": "buttons", "cardigan": "little buttons", "comb": "teeth",
        "saw blade": "teeth", "cog wheel": "teeth", "daisy": "petals", "sunflower head": "seeds",
        "strawberry": "seeds", "watermelon slice": "seeds", "bagel": "sesame seeds", "biscuit": "chocolate chips",
        "muffin": "raisins", "bicycle wheel": "spokes", "office chair": "castors", "ladder": "rungs",
        "abacus": "beads", "necklace": "beads", "bracelet": "pearls", "crown": "jewels", "ring": "small diamonds",
        "belt": "holes", "button": "holes", "colander": "holes", "recorder": "finger holes", "harmonica": "holes",
        "guitar": "strings", "harp": "strings", "guitar neck": "frets", "piano keyboard": "black keys",
        "calculator": "keys", "telephone": "keys", "keyring": "keys", "playing card": "hearts", "domino": "pips",
        "die": "pips", "dice": "dots", "flag": "stars", "general's shoulder": "stripes", "uniform": "medals",
        "cake": "candles", "matchbox": "matches", "pencil case": "pens", "skyscraper": "windows",
        "far-off building": "lit windows", "castle": "arrow slits", "fork": "prongs", "plug": "pins",
        "socket": "slots", "chip": "pins", "circuit board": "resistors", "server rack": "green LEDs",
        "router": "lights", "spider": "legs", "caterpillar": "legs", "beetle": "dots", "starfish": "arms",
        "rattlesnake's tail": "rings", "tree stump": "growth rings", "peacock feather": "eyes", "clover": "leaflets",
        "fern frond": "leaflets", "ear of corn": "rows of kernels", "pod": "peas", "pomegranate half": "seeds",
        "orange half": "segments", "honeycomb": "empty cells", "smear": "cells", "wound": "stitches",
        "incision": "sutures", "bile duct stump": "clips", "staple line": "staples", "blister pack": "pills",
        "pill box": "tablets", "slide": "bacteria", "retina": "tiny haemorrhages", "X-ray plate": "screws",
        "windscreen": "cracks", "ruler": "tick marks", "shoe": "eyelets", "corset": "hooks", "zip": "missing teeth",
        "dress": "polka dots", "leopard's cheek": "spots", "boy's nose": "freckles", "man's forehead": "wrinkles",
        "baby's mouth": "teeth", "hand": "rings", "ear": "piercings", "horseshoe": "nails", "plank": "nail heads",
        "brick wall's top row": "bricks", "chessboard edge": "squares", "cheese": "holes", "pizza": "olives",
        "salad": "croutons", "soda glass": "ice cubes", "window pane": "raindrops", "night sky": "stars",
        "distant wire": "birds", "horizon": "tiny sails", "anthill": "ants", "petri dish": "colonies",
    },
    ("doc", "field"): {
        "receipt": "total, tax, date, amount paid in cash, till number, price of the milk, change given",
        "invoice": "invoice number, amount due, due date, VAT rate, customer number, IBAN, unit price",
        "letter": "date, signature, reference number, salutation, postcode",
        "passport": "passport number, date of birth, place of birth, expiry date, surname",
        "driving licence": "licence number, date of issue, first name, categories",
        "boarding pass": "seat number, gate, flight number, boarding time, destination code",
        "train ticket": "platform number, fare, departure time, coach number, seat",
        "concert ticket": "row, price, entrance, start time",
        "menu": "price of the soup, dish of the day, cheapest dessert, opening hours",
        "timetable": "last departure, first train on Sunday, arrival time, line number",
        "business card": "phone number, e-mail address, job title, company name, street",
        "medicine box": "dose, expiry date, batch number, active ingredient, number of tablets",
        "prescription": "dosage, patient's name, doctor's name, date",
        "food label": "calories, sugar content, best-before date, ingredients, allergens, net weight",
        "bank statement": "closing balance, account number, last payment, date of the transfer",
        "cheque": "amount in words, payee, cheque number, date",
        "payslip": "net pay, tax code, hours worked, employee number",
        "form": "name filled in, box 4, postcode, reference code, date of birth",
        "certificate": "name of the holder, date, grade, registration number",
        "parcel label": "tracking number, recipient, return address, weight, postcode",
        "bill": "meter reading, amount, account number, due date, tariff",
        "lab report": "haemoglobin value, sample number, reference range, date, patient ID",
        "book cover": "title, author, publisher, subtitle, edition",
        "newspaper": "headline, date, price, name of the reporter, page number",
        "road sign": "distance, exit number, speed limit, town name, height limit",
        "calendar": "entry on the 14th, month, year, day of the meeting, week number",
        "table": "value in the second row, column heading, sum, third entry, bottom right cell",
        "spreadsheet": "content of cell B3, total, sheet name, formula, last entry",
        "exam sheet": "answer to question 3, mark, student's name, number of points",
        "recipe": "oven temperature, amount of flour, number of eggs, cooking time",
        "name tag": "name, company, role", "price tag": "price, size, discount, original price",
        "number plate": "registration, country code, last three digits", "coin": "year, value, inscription",
        "banknote": "denomination, serial number, portrait's name", "stamp": "value, country, year",
        "nameplate": "family name, flat number, title", "shop window": "opening hours, percentage off, slogan",
        "scoreboard": "score, minutes left, name of the home team, set result",
        "phone screen": "battery percentage, time, number of unread messages, caller's name, PIN hint",
        "error window": "error code, file name, message, line number",
        "web page": "URL, user name, price, number of reviews, date of the post",
        "chat": "last message, sender, time sent", "gravestone": "name, year of death, epitaph",
        "monument": "dedication, year, sculptor's name", "jersey": "number, name on the back, sponsor",
        "tram": "line number, destination, car number", "gift card": "code, amount, message",
        "lottery ticket": "winning numbers, draw date, serial number",
        "circuit diagram": "value of R2, supply voltage, label of the switch",
        "floor plan": "area of the bedroom, scale, room number",
        "map": "scale, name of the river, road number, height of the summit",
        "sheet music": "tempo marking, composer, key signature",
        "CT slice": "slice thickness, patient ID, date of the scan, side marker",
        "ultrasound image": "depth setting, measured diameter, time stamp",
        "ECG printout": "heart rate, paper speed, lead name, PR interval",
        "infusion pump": "flow rate, drug name, volume left",
    },
    ("meter", "reading"): {
        "wall clock": "time, hour", "wristwatch": "time, minute", "alarm clock": "alarm time, time",
        "stopwatch": "seconds, lap time", "thermometer": "temperature, number of degrees",
        "fever thermometer": "temperature, reading", "barometer": "pressure, value",
        "speedometer": "speed, number of kilometres per hour", "odometer": "mileage, last digit",
        "fuel gauge": "level, mark", "pressure gauge": "pressure, number of bars",
        "kitchen scale": "weight, number of grams", "bathroom scale": "weight, kilos",
        "measuring jug": "volume, number of millilitres", "syringe": "volume, mark",
        "ruler": "length, number of centimetres", "tape measure": "length, mark",
        "protractor": "angle, number of degrees", "compass": "heading, bearing",
        "electricity meter": "reading, number of kilowatt hours", "water meter": "reading, last three digits",
        "voltmeter": "voltage, reading", "oscilloscope": "frequency, amplitude", "petrol pump": "amount, litres",
        "taximeter": "fare, tariff", "parking meter": "minutes left, fee", "altimeter": "altitude, value",
        "rain gauge": "level, millimetres", "blood pressure monitor": "systolic value, pulse",
        "patient monitor": "oxygen saturation, heart rate, blood pressure",
        "ventilator": "tidal volume, respiratory rate", "anaesthesia machine": "gas concentration, flow",
        "insufflator": "pressure, flow", "glucose meter": "blood sugar, value",
        "microwave display": "remaining time, power level", "oven dial": "temperature, mark",
        "lift display": "floor, number", "departure board": "gate, delay, platform",
        "calculator display": "result, last digit",
    },
}  # fmt: skip


def rows(slots: tuple[str, ...], table: dict[str, str]) -> list[tuple[str, ...]]:
    """Each owner with each of its values, or with all of them where the pair is a triple."""
    values = {owner: words(text) for owner, text in table.items()}
    if len(slots) == 3:
        return [(owner, *states) for owner, states in values.items()]
    return [(owner, value) for owner, own in values.items() for value in own]


PAIRS = {slots: rows(slots, table) for slots, table in PAIRS.items()}

PLURALS = {
    "man": "men", "woman": "women", "policeman": "policemen", "fisherman": "fishermen", "old man": "old men",
    "sheep": "sheep", "child": "children", "goldfish": "goldfish", "deer": "deer", "hoof": "hooves",
    "wolf": "wolves", "scissors": "scissors", "calf": "calves", "bookshelf": "bookshelves", "shelf": "shelves",
    "knife": "knives", "leaf": "leaves", "pair of jeans": "pairs of jeans", "noodles": "noodles", "fish": "fish",
    "ivy": "ivies", "puppy": "puppies", "ultrasonic shears": "ultrasonic shears",
    "bipolar forceps": "bipolar forceps",
}  # fmt: skip


class Word(str):
    """A filler that can be written with its article (`{animal:a}`), in the plural (`{animal:s}`), or as the verb that
    agrees with it (`{part:be}` is "is" or "are", `{part:do}` is "does" or "do")."""

    @property
    def is_plural(self) -> bool:
        return self in PLURALS.values() or (self.endswith("s") and not self.endswith(("ss", "us", "lens")))

    def __format__(self, spec: str) -> str:
        if spec == "a":
            if self.is_plural:
                return str(self)
            is_vowel = self.lower().startswith(tuple("aeiou")) or self in ("X-ray", "MRI", "hour")
            return f"{'an' if is_vowel and not self.startswith(('uni', 'use', 'URL')) else 'a'} {self}"
        if spec in ("be", "do"):
            return {"be": ("is", "are"), "do": ("does", "do")}[spec][self.is_plural]
        if spec == "s":
            if self in PLURALS:
                return PLURALS[self]
            if self.endswith(("s", "x", "ch", "sh")):
                return f"{self}es"
            return f"{self[:-1]}ies" if self.endswith("y") and self[-2] not in "aeiou" else f"{self}s"
        return str(self)


class Filler(dict):
    """Draws a word for each slot as `str.format_map` asks for it, never the same word twice in one question."""

    def __init__(self, rng: random.Random):
        super().__init__()
        self.rng = rng

    def __missing__(self, slot: str) -> Word:
        for slots, rows in PAIRS.items():
            if slot in slots:
                self.update(zip(slots, map(Word, self.rng.choice(rows)), strict=True))
                return self[slot]
        choices = SLOTS[slot.rstrip("23")]
        self[slot] = Word(self.rng.choice([word for word in choices if word not in self.values()]))
        return self[slot]


# ---------------------------------------------------------------------------------------------------------------------
# Families: `name | task | weights in per cent, coarse to finest | domain`, then one phrasing a line. The domain, where
# there is one, lends its context sentences. `[slot]` after a phrasing: it may become multiple choice with words of it.

FAMILIES = {}
FAMILIES["coarse"] = """
place_kind | scene | 90 8 2 0
    What kind of place is this? [place]
    Which type of location does the {pic} show? [place]
    What setting do we see here? [place]
    Name the location type. [place]
    Is this {place:a} or {place2:a}?
    where are we

place_yesno | scene | 88 10 2 0
    Is this {place:a}?
    Does the {pic} show {place:a}?
    Would you say that this was taken at {place:a}?
    Are we looking at {place:a} or rather something else?
    Could this place be {place:a}?
    There should be {place:a} in this {pic}. Is that the location?

place_geography | reasoning | 82 10 4 4
    Which country could this be? [land]
    In what part of the world was this {pic} made?
    Does the scenery remind you more of {land} or of {land2}?
    What city or region might this be?
    Could this be {land}?
    Give your best guess of the geographic location.

indoors | scene | 93 6 1 0
    Is it an indoor or an outdoor {pic}?
    Was this {pic} taken inside a building?
    Are we outdoors?
    Decide: interior or exterior view.
    Is the whole thing happening under a roof or under the open sky?
    indoor/outdoor?

town_or_country | scene | 90 8 2 0
    Is this a city or a village?
    Urban, suburban or rural?
    Would you place this scene in the countryside or in a town?
    How built-up is the area?
    What kind of area surrounds the viewer?
    Does this look like downtown?

landscape | scene | 86 11 3 0
    What kind of landscape is it? [landscape]
    Which landscape best matches this view: {landscape} or {landscape2}?
    Does the land here look like {landscape:a}?
    Characterise the scenery.
    What type of habitat or ecosystem is pictured?
    How would a geographer classify this area?

environment | scene | 85 12 3 0
    Describe the environment.
    What are the general surroundings like?
    What environment does the {pic} depict overall?
    Describe the background as a whole.
    Give me a feel for the location.
    What does the setting tell you?

room_kind | scene | 82 15 3 0
    Which room is this?
    What is this room used for?
    Is it a bedroom, a study or a kitchen?
    Would you call this room {mood}?
    What is the interior style of this room?
    Describe the room in general.

weather | scene | 90 6 4 0
    How is the weather?
    Is it a {weather} day?
    What weather conditions are visible? [weather]
    Do you think it's {weather} or {weather2} out there?
    Would I need an umbrella if I stood there?
    Tell me about the climate and the sky in general.
    What might the temperature feel like in this scene?

season | scene | 86 9 5 0
    Which season is it? [season]
    At what time of the year could this have been taken?
    Is it {season} here?
    Is this more likely {season} or {season2}?
    Name the season, judging by the whole view. [season]
    In which months does it look like this?

daytime | scene | 88 8 4 0
    What time of day does the light suggest? [daytime]
    Is it day or night?
    Was this shot at {daytime}?
    Does this look like {daytime} or like {daytime2}?
    Roughly how many hours before sunset was this {pic} made?
    Morning or evening?
    Is it already dark in this {pic}?

lighting | scene | 80 8 12 0
    How is the scene lit?
    Is the light natural or artificial?
    Does the {pic} look bright or dark overall?
    Describe the lighting of the {pic}.
    Is it backlit?
    What does the light do to the scene?

era | scene | 82 9 8 1
    When was this taken, roughly?
    Does the scene belong to {era}?
    Which era are we in? [era]
    How many years ago might this have been photographed?
    Is this an old or a recent {pic}?
    Does it feel like {era} or {era2}?
    Date this {pic} to within a decade.

event | scene | 82 16 2 0
    What event is this? [event]
    What occasion brings the people together? [event]
    Is this {event:a} or {event2:a}?
    Does it look like {event:a}?
    What are these people gathered for? [event]
    What is being held here? [event]
    Which kind of gathering does the {pic} document? [event]

happening | scene | 72 25 3 0
    What is happening here?
    What's going on?
    What is the main activity in this {pic}?
    Explain the situation.
    What situation are we witnessing?
    Read the situation and tell me what this is all about.
    what is this about

formality | scene | 80 13 7 0
    Is this a formal or a casual event?
    How official does the whole thing look?
    Does the gathering seem private or public?
    Would I be overdressed here in a dinner jacket?
    Is this a work setting or leisure time?
    Is it a solemn ceremony?

mood | scene | 90 7 3 0
    What mood does the {pic} convey? [mood]
    How does this scene feel?
    Is the atmosphere {mood} or {mood2}?
    Which emotion does the {pic} as a whole evoke?
    What feeling do you get when you look at it?
    Describe the mood.
    Characterise the ambience in a word or two.

mood_yesno | scene | 88 9 3 0
    Does the place seem {mood}?
    Is there a {mood} atmosphere?
    Is the mood {mood}?
    Does this {pic} come across as {mood}?
    Would people find this scene {mood}?
    Is there anything {mood} about this scene in general?

mood_words | captioning | 88 8 4 0
    List three adjectives for the atmosphere.
    Give me five keywords for the mood of this {pic}.
    Which adjectives fit this scene as a whole?
    How many stars would you give this place for its ambience?
    Count the ways in which this place feels {mood}.
    Put the feeling of the {pic} into a single word.

caption_short | captioning | 80 18 2 0
    Write a caption for this {pic}.
    Caption this.
    Provide a one-sentence caption.
    Give a short description of the {pic}.
    What would be a good caption here?
    Briefly describe the {pic}.
    A brief caption, under ten words.

caption_long | captioning | 64 25 9 2
    Describe the {pic} in detail.
    Write a detailed description of the whole scene.
    Provide a comprehensive description of this {pic}.
    Describe everything that makes up this scene in one long paragraph.
    Paint a full picture in words of what the camera saw.
    Explain the visual content of the {pic} at length.

caption_social | captioning | 82 15 3 0
    I want to post this. What should I write underneath?
    Suggest a witty caption for social media.
    Which hashtags fit this {pic}?
    Think up a funny headline for this {pic}.
    What text would go well with this post?
    Write a {mood} caption for my feed.

alt_text | captioning | 76 19 3 2
    Write alt text for this {pic}.
    Describe this {pic} to {audience}.
    What would you tell {audience} about this {pic}?
    A screen reader needs a description of this {pic}. Provide one.
    How would you explain this scene to {audience}?
    My eyes are bad; what does this {pic} show in general?

summary | captioning | 80 17 3 0
    Summarise the {pic}.
    Give me the gist.
    What is the essence of this {pic}?
    In a nutshell, what do we see?
    What is this {pic} of?
    Give an overview of the scene.
    What does the {pic} show overall?
    Boil this {pic} down to one sentence.

main_subject | captioning | 70 27 3 0
    What is the main subject of this {pic}?
    What is the focus of the {pic}?
    What is this {pic} mainly about?
    What's the central theme?
    Which topic does the {pic} deal with?
    What does the {pic} want to show us?

story | captioning | 78 19 3 0
    Tell a story that fits this {pic}.
    Invent a little tale inspired by the scene.
    What story does this {pic} tell?
    Write the opening paragraph of a novel that begins in this place.
    Write a diary entry of somebody who spent the day here.
    What happened here, do you think?

title | captioning | 84 13 3 0
    Suggest a title for this {pic}.
    What name would you give this painting?
    Which title would suit the {pic}?
    If this were a film, what would it be called?
    Find a name for this series of {pic:s}.
    If this hung in a museum, what would the title be?

poem | captioning | 82 14 4 0
    Write a haiku about this {pic}.
    Compose a short poem on the scene.
    Which song would go with this place?
    Write four lines of verse inspired by the {pic}.
    What music suits this view?
    Which proverb illustrates the {pic}?

senses | reasoning | 80 15 5 0
    What sounds would you hear in this place?
    How does it smell there, do you think?
    Is it noisy or quiet in such a place?
    How would it feel to stand in the middle of this?
    Imagine being there: what would you notice first?
    Is it warm or cold over there?

image_kind | scene | 86 8 5 1
    What kind of image is this? [kind]
    Is this {kind:a}?
    Is it {kind:a} or {kind2:a}?
    Which medium was used to make this? [kind]
    Is this picture real or computer-generated?
    Was it drawn by hand or taken with a camera?
    What type of visual is it? [kind]

art_style | scene | 82 8 10 0
    Which art style is this? [style]
    Is the picture {style} or {style2}?
    Does the work look {style}?
    Which artistic movement does it belong to?
    In the manner of which painter is this done?
    How would an art critic describe this work?

genre | scene | 84 12 4 0
    Which genre does this {pic} belong to?
    Is this a documentary or a staged {pic}?
    What genre of film might this be taken from?
    Is it fashion, wildlife or architecture photography?
    What category should I file this {pic} under?
    Comedy or drama, judging by this still?

viewpoint | scene | 80 14 6 0
    From which viewpoint was this taken?
    Is it an aerial view?
    Is this a close-up or a wide shot?
    Was the camera high up or near the ground?
    What is the camera angle?
    Is it a view from above?

image_quality | scene | 74 6 18 2
    How good is the quality of this {pic}?
    Is the {pic} in focus?
    Is the {pic} overexposed?
    Is this {pic} grainy or noisy?
    Has the {pic} been filtered or edited?
    Was this taken by a professional or an amateur?

palette | scene | 70 7 23 0
    Which colours dominate the {pic}?
    Describe the colour scheme of the whole {pic}.
    Is this {pic} in black and white or in colour?
    Is the overall tone pastel or saturated?
    What is the dominant colour of the scene?
    Do the colours of the {pic} make it feel {mood}?

composition | scene | 72 20 8 0
    How is the {pic} composed?
    Does the {pic} follow the rule of thirds?
    Comment on the composition and depth of the {pic}.
    Is the layout balanced?
    Does the {pic} look cluttered or tidy?
    Is there a lot of empty space in the {pic}?

crowded | scene | 68 29 3 0
    How crowded is this place?
    Is it busy or quiet here?
    Is there a big crowd?
    Does the place look abandoned?
    Is {place:a} usually this empty?
    How lively is it here?

traffic | scene | 66 30 4 0 | street
    How heavy is the traffic?
    Is there a traffic jam?
    Are the roads clear?
    What is the traffic situation like?
    Is it a main road or a quiet lane?
    What are the driving conditions?

safety | reasoning | 74 19 7 0
    Does this place look safe?
    Would you let children play here?
    Is this an emergency?
    Is there any danger in this situation overall?
    Does this look like the aftermath of an accident?
    How risky is the situation?

suitability | reasoning | 86 10 4 0
    Would this {pic} work as a desktop background?
    Could I use this {pic} in an article about {topic}?
    Is this {pic} suitable for children?
    Would this make a good cover for a book on {topic}?
    For which product could this {pic} be an advertisement?
    Is the {pic} appropriate for a company website?

visitors | reasoning | 80 16 4 0
    What kind of people would come to a place like this?
    Why would someone want to visit this place?
    Would you recommend this place for {event:a}?
    What is this place good for?
    What could a family do here on a Sunday?
    What would a night here cost, roughly?

wealth | reasoning | 78 14 8 0
    What would rents be like around here?
    Does the place look expensive?
    How well kept is this place in general?
    How many stars would this hotel have?
    What does the {pic} say about how these people live?
    Is the standard of living high here?

culture | reasoning | 80 13 6 1
    Which culture or tradition does this scene reflect?
    Which holiday is it?
    Is this a religious place?
    What tradition is shown?
    What does this scene say about life in {land}?
    Is this typical of {land}?

before_after | reasoning | 66 29 5 0
    What might have happened just before this {pic} was taken?
    How will this day go on for everyone here?
    What will this place look like an hour later?
    What led to this situation?
    How did this scene probably end?
    Is the event just beginning, in full swing or over?

compare_scenes | reasoning | 80 13 7 0
    Do the two {pic:s} show the same place?
    Which of the two {pic:s} looks more {mood}?
    Compare the atmosphere of both {pic:s}.
    How does the mood differ between the first and the second {pic}?
    What do these {pic:s} have in common as a whole?
    Were both {pic:s} taken in the same season?

collage | scene | 74 18 4 4
    How many different scenes does this collage combine?
    Is this one picture or several put together?
    Do all panels take place in the same setting?
    What theme connects the {pic:s} in this grid?
    What story do the comic panels tell in general?
    How many settings appear across the panels?

archive | scene | 84 12 2 2
    Assign this {pic} to one category: {topic}, {topic2} or {topic3}.
    Classify the scene.
    Label this {pic} with a scene type.
    Which album should this go into, {event:s}, travel or pets?
    Tag this {pic} for a photo library.
    Which section of a newspaper would print this, {topic} or {topic2}?

message | reasoning | 76 14 4 6
    What message does this poster send?
    What is the advertisement trying to sell?
    What is the cartoon making fun of?
    What is the joke here?
    What idea does the artist want to express?
    Why is this meme funny?
    What does the {pic} symbolise?

sport_kind | scene | 62 33 5 0
    Which sport is being played?
    What kind of competition is it?
    Is this a training session or a real match?
    Is it a professional game or kids having fun?
    What stage has the race reached?
    Is the game about to begin?

process_stage | scene | 68 22 10 0
    Which step of the recipe is this?
    How far along is the building work?
    Is the dish still being prepared or ready to serve?
    What stage of the assembly do we see?
    Is the renovation finished?
    In which phase of the process are we?

imagine | captioning | 80 16 4 0
    Imagine you are a radio host and set the scene for your listeners.
    Describe the {pic} as if you were a tour guide.
    Describe this scene in the style of a detective novel.
    Write a postcard from this place.
    Write a prompt that would generate this {pic}.
    How would a set designer recreate this?

opinion | reasoning | 82 14 4 0
    Do you like this {pic}?
    What makes this {pic} special?
    Is it a beautiful place?
    Would you like to live there?
    How would you rate the {pic} from 1 to 10?
    What impression does the {pic} leave?

landuse | scene | 78 19 3 0
    What is the land used for in this satellite view?
    Is the area residential, industrial or agricultural?
    What does this aerial image cover?
    Is the region mostly water, forest or fields?
    Has the whole area been flooded?
    How has the region changed between the two satellite images?

surgery_phase | surgical | 80 16 4 0 | surgery
    What phase of the surgery is this? [phase]
    Which step of the {operation} is being performed? [phase]
    Is this the {phase} phase?
    Has the team moved on to {phase} or is it still {phase2}?
    At what point of the procedure was this frame taken?
    Name the current surgical phase. [phase]
    What is the present stage of the operation? [phase]

surgery_kind | surgical | 84 13 3 0 | surgery
    What kind of operation is this? [operation]
    Is this {operation:a} or {operation2:a}?
    Which procedure does the video show? [operation]
    Is it open or minimally invasive surgery?
    What type of surgery is being carried out? [operation]
    Could this be a frame from {operation:a}?

surgery_summary | surgical | 74 21 5 0 | surgery
    Describe the surgical scene.
    Summarise what is going on in the operating field.
    How is the operation going?
    Give an overview of this surgical frame.
    Is the view good enough to go on, or is there too much smoke?
    Is the situation under control or is it an emergency?
    Is the field clear overall?

med_modality | medical | 88 8 4 0 | medical
    What imaging modality is this? [modality]
    Is this {modality:a}?
    Is it {modality:a} or {modality2:a}?
    How was this medical image acquired?
    Which technique produced this scan? [modality]
    What type of scan am I looking at? [modality]

med_plane | medical | 82 11 6 1 | medical
    In which plane was the scan taken?
    Is this an axial slice?
    Was contrast agent used?
    Is it a frontal or a lateral view?
    What projection is this {modality}?
    Is it T1- or T2-weighted?

med_region | medical | 66 30 4 0 | medical
    Which region of the body does the scan cover? [bodypart]
    What body part was imaged? [bodypart]
    Is this a scan of the {bodypart} or the {bodypart2}?
    Does the {modality} show the {bodypart}?
    Which organ system are we looking at?

med_impression | medical | 68 20 11 1 | medical
    Is this {modality} normal?
    What is your overall impression of the {modality}?
    Does the scan look healthy in general?
    Write a short radiology report.
    What is the most likely diagnosis?
    Summarise the {modality} for the patient.
    Is there anything abnormal at all?

doc_kind | document | 80 8 4 8 | document
    What kind of document is this? [paper]
    Is this {paper:a} or {paper2:a}?
    Is it {paper:a}?
    What type of paper have I scanned? [paper]
    Which category of document does this belong to? [paper]
    What sort of record is it? [paper]

doc_topic | document | 72 10 4 14 | document
    What is this document about?
    Summarise the page.
    What is the purpose of this {paper}?
    Give me the main idea of the text.
    Is the letter good news or bad news?
    Does the {paper} deal with {topic} or with {topic2}?
    Who is this {paper} meant for?
    Explain in general what the {paper} wants from me.

doc_look | document | 72 15 11 2 | document
    Does the {paper} look official?
    Is the page handwritten or printed overall?
    How is the page laid out?
    Does the {paper} look professionally designed?
    Is the page mostly text or mostly pictures?
    Is it a scan or a photo of the page?

doc_language | document | 58 6 4 32 | document
    What language is this {paper} in?
    Is the {paper} in English or in another language?
    Which script is used on this page?
    From which country does this {paper} come?
    Is the whole page in Arabic?

chart_kind | chart | 80 9 7 4 | chart
    What kind of chart is this? [chart]
    Is this {chart:a}?
    Is it {chart:a} or {chart2:a}?
    Which type of diagram was used? [chart]
    How is the data presented?
    Name the visualisation type. [chart]

chart_topic | chart | 74 9 4 13 | chart
    What is this {graph} about?
    What does the {graph} show in general?
    Which topic does the {graph} cover?
    What is the {graph} trying to prove?
    Sum up the {graph}.
    Is the {graph} about {quantity} or about {quantity2}?
    Write a caption for the {graph}.

chart_trend | chart | 66 16 12 6 | chart
    What is the overall trend?
    Is {quantity} generally going up or down?
    Describe the general tendency of the data.
    Does the {graph} tell a story of growth or decline?
    How has {quantity} developed over the whole period?
    Is there a correlation between the two variables?
    What conclusion can be drawn from the {graph}?

screen_kind | scene | 78 12 3 7 | screen
    What app is this a screenshot of? [screen]
    Is this {screen:a} or {screen2:a}?
    What is this screen for? [screen]
    What kind of website is it? [screen]
    What is the user doing in this screenshot, in general?
    Describe the page design.
    Does the screen look like {screen:a}?

map_kind | scene | 78 13 4 5
    What kind of map is this?
    Which area does the map cover?
    Is it a street map or a weather map?
    What does the map show?
    Is it an old or a modern map?
    Is this plan of a house or of a whole town?

slide_topic | document | 72 11 3 14 | document
    What is the slide about?
    Summarise the slide in one sentence.
    What is the presenter talking about?
    What should the audience take away from the slide?
    Is this slide part of a lecture or of a sales pitch?
    What is the poster session about?
"""

FAMILIES["medium"] = """
presence_animal | recognition | 7 87 6 0
    Is there {animal:a} in the {pic}?
    Are there any {animal:s}?
    Do you see {animal:a} or {animal2:a}?
    Can you find {animal:a} here?
    Is any {animal} visible?
    Has {animal:a} got into the {place}?
    {animal:s}, yes or no?

presence_thing | recognition | 6 87 6 1
    Is there {thing:a} in this {pic}?
    Do you see any {thing:s}?
    Does the {pic} contain {thing:a}?
    Is {thing:a} visible anywhere?
    Can {thing:a} be seen in the {corner}?
    Is {thing:a} part of the {pic}?
    Does this {place} have {thing:a}?

presence_vehicle | recognition | 8 86 6 0
    Is there {vehicle:a} on the road?
    Do any {vehicle:s} appear in the {pic}?
    Can you make out {vehicle:a}?
    Has someone parked {vehicle:a} here?
    Are there {vehicle:s} or {vehicle2:s}?
    Is {vehicle:a} coming?

presence_people | recognition | 12 83 5 0
    Is anybody there?
    Are there people in this {pic}?
    Is there {person:a} among them?
    Do you see {person:a} in the {corner}?
    Does {person:a} appear here?
    Is the {place} staffed, or is nobody around?
    Is {person:a} present?

absence | recognition | 10 82 7 1
    What is missing from the {place}?
    Is it true that there is no {thing} in the {pic}?
    Which of these is not in the {pic}: {thing}, {thing2} or {thing3}?
    Is the {thing} no longer there?
    Which object was removed between the first and the second {pic}?
    Has anything been added to the {place} since the first {pic}?

check_list | recognition | 12 80 6 2
    Tick off what you see: {thing}, {thing2}, {thing3}.
    Do we have both {thing:a} and {thing2:a} here?
    Check whether {thing:a} is there.
    I need {thing:a} for my trip. Is one in the {pic}?
    Verify that there is {thing:a} next to the {spot}.
    Make sure no {animal} is in the {place}.

list_objects | recognition | 18 76 6 0
    What objects are in the {pic}?
    List all the things you can see.
    Which items lie on the {spot}?
    Name the objects in the {corner}.
    Make an inventory of the {place}.
    What all is there on the {spot}?
    Enumerate the visible objects.

list_animals | recognition | 26 67 7 0
    What animals are there?
    Which animals appear in the {pic}?
    Name the animals.
    Which creatures live in this enclosure?
    List every kind of animal that you recognise.
    What birds sit on the {spot}?

list_category | recognition | 15 78 7 0
    What vehicles are on the street?
    Which tools are hanging there?
    List the foods on the table.
    What toys are lying on the floor?
    Which kitchen appliances can be seen?
    What fruits and vegetables does the stall sell?
    What instruments does the band have?
    Describe the items that are for sale.

identity_spot | recognition | 6 84 10 0
    What is on the {spot}? [thing]
    What stands beside the {spot}?
    What is that thing in front of the {spot}? [thing]
    What is in the {corner} of the {pic}? [thing]
    Identify the object near the {spot}. [thing]
    What is lying by the {spot}? [thing]
    what's that thing there by the {spot}? [thing]

identity_choice | recognition | 5 82 13 0
    Is that {thing:a} or {thing2:a} beside the {spot}?
    Is the object on the {spot} {thing:a}?
    Is the animal behind the {spot} {animal:a} or {animal2:a}?
    Is it {vehicle:a} or {vehicle2:a} that the {person} drives?
    Is this thing really {thing:a}?

species | recognition | 8 70 22 0
    What breed is the {animal}?
    Which species of bird is sitting on the {spot}?
    What kind of {animal} is that?
    What insect is crawling on the {plant}?
    Identify the plant in the pot.
    What type of flower is growing by the {spot}?
    Which mushroom species have I found?

food_identity | recognition | 8 80 12 0
    What is on the plate? [food]
    What is the {person} eating? [food]
    Which dish is served? [food]
    Is that {food:a} or {food2:a} on the plate?
    What drink goes with the {food}?
    Is there {food:a} on the table?
    Which ingredients lie on the worktop?

person_role | recognition | 12 76 12 0
    Who is standing by the {spot}?
    What is the job of the {adult} next to the {spot}?
    Is the person by the {spot} {person:a} or {person2:a}?
    Who is in charge here?
    Who are the people sitting around the {spot}?
    Which one is the {person}?
    Who might the {adult} be waiting for?

count_people | counting | 8 80 8 4
    How many people are there? [number]
    How many {person:s} do you see? [number]
    Count the {person:s}.
    What is the number of persons around the {spot}? [number]
    How many of them are {doing}? [number]
    How many {person:s} stand left of the {spot}? [number]
    How many people wear a hat? Count the people, not the hats. [number]

count_animals | counting | 5 80 8 7
    How many {animal:s} are there? [number]
    Count the {animal:s} by the {spot}.
    How many {animal:s} are drinking? [number]
    What is the total number of {animal:s}? [number]
    Give the number of animals in the {place}.
    How many young ones does the {animal} have with it? [number]

count_things | counting | 5 79 8 8
    How many {thing:s} are on the {spot}? [number]
    Count the {thing:s}.
    How many {thing:s} does the {place} have? [number]
    Tell me the number of {thing:s} beside the {spot}.
    how many {thing:s} can u see [number]
    Are there two {thing:s} or three?
    Is there only one {thing}?
    What is the number of {thing:s}? [number]

count_vehicles | counting | 7 79 8 6 | street
    How many {vehicle:s} are there? [number]
    Count all {vehicle:s} on the road.
    How many {vehicle:s} are waiting at the lights? [number]
    How many lanes are occupied by {vehicle:s}? [number]
    Number of {vehicle:s}?
    Is there more than one {vehicle}?

count_compare | counting | 9 78 9 4
    Are there more {animal:s} than {animal2:s}?
    Which are there more of, {thing:s} or {thing2:s}?
    Do the {person:s} outnumber the {person2:s}?
    Are there as many {thing:s} as {person:s}?
    Is there a chair for everyone?
    What is there most of on the {spot}?

count_roughly | counting | 30 62 4 4
    About how many people are in the crowd?
    Estimate the number of {animal:s} in the herd.
    Roughly how many {vehicle:s} are in the car park?
    Are there dozens or hundreds of spectators?
    How large is the group?
    Is it a large flock of {animal:s}?

where_thing | position | 5 86 9 0
    Where is the {object}?
    Where can I find the {thing}?
    In which part of the {pic} is the {object}?
    Where did they put the {thing}?
    Where exactly is the {person} standing?
    On what is the {thing} resting?
    Find the {object}.

position_yesno | position | 4 86 10 0
    Is the {object} to the {side} of the {spot}?
    Is the {thing} under the {spot}?
    Is the {animal} behind the {spot}?
    Is the {thing} in the {corner}?
    Does the {thing} stand in front of the {spot}?
    Is the {thing} above or below the {spot}?
    The {animal} is on the {side} side, isn't it?

left_right | position | 5 86 9 0
    What is on the {side} of the {pic}?
    What is to the {side} of the {thing}?
    Which object is further {side}, the {thing} or the {thing2}?
    Who stands on the {person}'s {side}?
    Is the {object} on the left or on the right?
    What's at the {side} edge of the {pic}?
    Name the things from left to right.

vertical | position | 5 85 10 0
    What is above the {spot}?
    What is beneath the {thing}?
    What is on top of the {spot}?
    Is anything hidden under the {thing}?
    Which object is at the bottom of the stack?
    What is flying over the {spot}?
    What lies underneath the {person}'s feet?

between_near | position | 5 85 10 0
    What is between the {thing} and the {spot}?
    Which object is closest to the {thing}?
    What is farthest from the camera?
    Is the {animal} near the {spot} or far away from it?
    Which {person} stands nearest the {spot}?
    Is the {thing} closer to us than the {thing2}?
    How far apart are the {thing} and the {spot}?

containment | relation | 5 82 13 0
    What is inside the {thing}?
    What's in the basket?
    Is the {thing} in the box or next to it?
    What is the {animal} sitting in?
    Who is in the {vehicle}?
    Is something sticking out of the bag?
    What does the {person} have in the pocket or bag?

front_behind | position | 5 86 9 0
    What is behind the {person}?
    Who is in front of the {spot}?
    Which things are hidden behind the {thing}?
    What partly covers the {object}?
    Is the {thing} blocking the view of the {thing2}?
    Which object is in the foreground?

grounding | position | 4 80 15 1
    Give the coordinates of the {object}.
    Draw a box around the {thing}.
    Output the bounding box for the {person} who is {doing}.
    Point to the {thing}.
    Mark all {animal:s} in the {pic}.
    Return [x1, y1, x2, y2] of the {colour} {thing}.
    Detect every {thing} and give one box for each.
    Segment the {object}.

box_content | position | 4 78 17 1
    What object is in the region [0.21, 0.35, 0.48, 0.77]?
    What is in the marked box?
    Which thing does the arrow point at?
    What is highlighted by the circle?
    Is the object in the box {thing:a}?
    What did I outline in {colour}?
    Name the object at the tip of the arrow.

arrangement | position | 15 76 9 0
    Describe where the things are.
    Describe how the {thing:s} are arranged around the {spot}.
    How is the furniture laid out?
    How are the people positioned relative to each other?
    In what order are the {thing:s} lined up?
    Are the {thing:s} in a row or in a circle?
    Explain where each person is standing.

holding | relation | 4 82 14 0
    What is the {person} holding?
    What does the {person} have in the {side} hand?
    Is the {person} carrying {thing:a}?
    Who has the {thing}?
    What is being carried by the {adult}?
    What did the {person} pick up?
    Which {person} is holding {thing:a}?

giving | relation | 5 83 12 0
    What is the {person} giving to the {person2}?
    Who is handing over the {thing}?
    To whom does the {person} pass the {thing}?
    Is the {person} offering the {thing} to the {person2}?
    Who is receiving the {thing}?
    What are the {person} and the {person2} exchanging?

action_what | action | 11 80 9 0
    What is the {person} doing? [doing]
    What are the {person:s} doing? [doing]
    What is the {animal} up to? [doing]
    What does the {person} by the {spot} do? [doing]
    Describe what the {person} is doing.
    Tell me what everyone is busy with.
    What activity is the {person} engaged in? [doing]

action_yesno | action | 10 82 8 0
    Is the {person} {doing}?
    Are they {doing}?
    Is anyone {doing}?
    Is the {adult} {doing} or {doing2}?
    Is the {animal} eating?
    Is the {animal} running or standing still?
    Are the {person:s} working or having a break?

action_who | action | 8 83 9 0
    Who is {doing}?
    Which {person} is {doing}?
    Find the person who is {doing}.
    Is it the {person} or the {person2} who is {doing}?
    Name those who are {doing}.
    Which of the two is {doing}?

interaction | relation | 12 80 8 0
    How do the {person} and the {person2} interact?
    Is the {person} talking to the {person2}?
    Who is helping whom?
    Is the {animal} attacking the {animal2} or playing with it?
    What is the {person} doing with the {thing}?
    Are the {person:s} fighting?
    Do the {person} and the {animal} get along?
    What is the relation between the {person} and the {thing}?

chase_follow | action | 9 82 9 0
    Who is chasing whom?
    What is the {animal} running after?
    Is the {animal} following the {person}?
    Where is the {person} going?
    In which direction is the {vehicle} travelling?
    What is the {person} running away from?
    Who is ahead in the race?

gaze | relation | 8 76 16 0
    What is the {person} looking at?
    Who is watching the {animal}?
    Is the {person} looking at the {thing} or at the {person2}?
    At what is the {person} pointing?
    Are the two looking at each other?
    What has caught the {animal}'s attention?

ride_drive | action | 7 83 10 0
    What is the {person} riding?
    Who is driving the {vehicle}?
    Is the {person} getting into the {vehicle} or out of it?
    How many people are in the {vehicle}?
    What is the {vehicle} towing?
    Is somebody sitting on the {vehicle}?
    What is being loaded into the {vehicle}?

use_tool | action | 8 79 13 0
    What is the {person} using to do it?
    With which tool does the {person} work?
    What is the {thing} being used for?
    Is the {person} using {thing:a} or {thing2:a}?
    What is the {person} cutting?
    What is the {person} cooking?
    What is being built by the {person:s}?
    Which game are the {person:s} playing?

support | relation | 5 80 15 0
    What is the {thing} leaning against?
    What is hanging from the {spot}?
    What is attached to the {spot}?
    What holds up the {thing}?
    To what is the {animal} tied?
    Is the {thing} hanging or standing?
    Where is the {animal} sitting?

wearing_object | relation | 6 68 26 0
    Who is wearing {garment:a}?
    What is the {person} wearing?
    Is the {person} wearing {garment:a}?
    Which of the {person:s} has {garment:a} on?
    What does the {person} have on the head?
    Where did the {person} hang the {garment}?

size_compare | relation | 6 74 20 0
    Which is bigger, the {thing} or the {thing2}?
    Is the {animal} taller than the {animal2}?
    Who is the tallest of the {person:s}?
    Is the {vehicle} larger than the {vehicle2} next to it?
    Which {thing} is the smallest?
    Compare the sizes of the {thing} and the {thing2}.
    Do all {thing:s} have about the same size?

same_kind | relation | 9 76 15 0
    Are all of the objects {thing:s}?
    Which one is the odd one out?
    Do the two {person:s} do the same?
    Are these the same {thing:s} as in the first {pic}?
    Which two objects belong together?
    Sort the objects into groups.
    Match each {person} with the right {thing}.

hazard_object | reasoning | 12 77 11 0
    What could someone trip over?
    Which object here is dangerous for a toddler?
    Is something blocking the emergency door?
    Why can't the {vehicle} get through?
    Which things would a burglar take first?
    What might fall off the {spot}?
    Is there an obstacle ahead of me?

tool_reasoning | reasoning | 9 78 13 0
    Which object could be used to open the {thing}?
    What here could keep me dry?
    Which of these things runs on electricity?
    What could I sit on?
    Which item should the robot grasp to pour water?
    Which of the objects can float?
    Is there anything here for cutting {food:a}?

next_action | reasoning | 16 74 10 0
    What will the {person} do next?
    What is the {animal} about to do?
    Will the {vehicle} hit the {animal}?
    Why is the {person} {doing}?
    Why does the {person} need the {thing}?
    What is the {person}'s goal with the {thing}?
    Should the driver brake for somebody?

lost_item | position | 5 83 11 1
    I can't find my {thing}. Do you see it?
    Help me look for the {thing}, where could it be?
    Did I leave the {thing} on the {spot}?
    My {animal} ran off. Is it in this {pic}, and where?
    Where's Wally?
    Has anyone seen the {thing}? It should be near the {spot}.
    Which drawer or shelf is the {thing} on?

shelf_stock | recognition | 8 78 10 4
    Which shelf are the {food:s} on?
    Are there any {food:s} left in the shop?
    What is next to the {food:s} on the shelf?
    Which products are out of stock?
    Is there still some {food} in the fridge?
    What's left in the fridge?

kitchen_table | relation | 7 80 12 1
    What is the {food} served on?
    Is the {food} next to the {food2}?
    Which plate is nearest the {person}?
    How many plates are on the table?
    Has everybody got something to drink?
    Who has the {food} in front of them?
    Is the {thing} on the table or on the floor?

street_objects | recognition | 9 81 8 2 | street
    Is there a zebra crossing?
    Are there traffic lights at this junction?
    Which vehicle is turning {side}?
    Is someone crossing the street?
    What is parked by the kerb?
    Is there a free bench or seat?
    Where is the bus stop?
    Is the cyclist in front of the {vehicle}?

describe_persons | captioning | 20 70 10 0
    Describe each person's activity.
    Describe the people and what connects them.
    Describe the {person} and the {thing} next to the {spot}.
    Say for every {animal} what it is doing.
    Describe the relationship between the objects.
    Give me subject-verb-object triples for this {pic}.
    Write a scene graph with objects and relations.

map_landmarks | position | 9 74 8 9
    Is the {building} north or south of the river on the map?
    Which building stands next to the {building}?
    What is across the street from the {building}?
    Does the path pass the {building} before the {spot}?
    Where on the plan is the staircase?
    Which rooms are next to the kitchen on the floor plan?
    How do I get from the {spot} to the {building}?

game_board | position | 6 76 14 4
    Which {toy} is next to the edge?
    Where is the {toy}?
    Which piece attacks the queen?
    How many {toy:s} are left?
    Whose {toy} is in front?
    Which pieces has white already lost?
    Is any {toy} lying outside the board?

surgery_instruments | surgical | 6 80 13 1 | surgery
    What instruments are visible?
    Is {instrument:a} in use?
    Which tool is the surgeon using?
    Is there {instrument:a} in the field?
    Name all surgical tools in the frame. [instrument]
    Is that {instrument:a} or {instrument2:a}?
    Which instrument enters from the {side}? [instrument]
    Identify the instrument at the {corner}. [instrument]

surgery_organs | surgical | 9 78 13 0 | surgery
    Which organ is being operated on? [organ]
    Can you see the {organ}?
    Is the {organ} exposed?
    What structure lies next to the {organ}?
    Which anatomical structures are visible?
    Is that the {vessel} or the {vessel2}?
    Is the {vessel} in the field of view?

surgery_action | surgical | 9 78 13 0 | surgery
    What is the {instrument} doing?
    Which tissue is the {instrument} grasping?
    Is the {instrument} touching the {organ}?
    What is the surgeon doing to the {organ}?
    Give the triplet instrument, verb, target.
    Is the assistant holding {instrument:a}?
    With which instrument is the {organ} retracted?
    Is the {organ} being cut or cauterised?

surgery_position | surgical | 4 81 14 1 | surgery
    Where is the {instrument}?
    Is the {instrument} to the {side} of the {organ}?
    Which tool is closest to the {vessel}?
    How many instruments are in the frame?
    How many trocars have been placed?
    Where does the bleeding come from?
    Is a swab still inside the patient?
    In which quadrant is the {instrument}?

surgery_team | surgical | 14 76 10 0 | surgery
    How many staff stand at the operating table?
    What is the anaesthetist doing?
    Who hands the instruments to the surgeon?
    Is everyone in theatre wearing a mask?
    Where is the patient's head?
    Is the surgeon sitting at the robot console?

med_presence | medical | 9 70 19 2 | medical
    Is there {finding:a} on this {modality}?
    Do you see {finding:a}?
    Does the patient have {finding:a}?
    Are there signs of {finding:a} in the {bodypart}?
    Which abnormality is present in the {bodypart}?
    Is {finding:a} visible, or is it absent?
    What is the bright thing in the {corner} of the scan?

med_where | medical | 5 76 18 1 | medical
    Where is the {finding}?
    In which lobe is the {finding}?
    On which side is the {finding}?
    Is the {finding} in the {side} {bodypart}?
    Which organ is affected?
    Localise the {lesion}.
    What organ is marked by the arrow?
    Are both kidneys there?
    How many lesions are there in the liver?

doc_blocks | document | 8 70 11 11 | document
    Is there {block:a} on the page?
    Does the {paper} have {block:a}?
    Where is the {block} on the {paper}?
    Which elements does the page consist of?
    Is the {block} above or below the {block2}?
    What is next to the {block}?
    Is the {paper} signed at all?
    How many columns of text are there?

doc_count_blocks | document | 12 68 8 12 | document
    How many figures are on this page?
    How many tables does the page contain?
    How many paragraphs does the text have?
    Count the photographs in this newspaper page.
    How many signatures does the {paper} carry?
    How many pages are lying on the desk?
    Find all the tables on the page and give their boxes.

chart_elements | chart | 9 65 14 12 | chart
    Does the {graph} have a legend?
    Are there error bars?
    How many lines are plotted?
    How many bars does the {graph} have?
    Which curves cross each other?
    Where in the {graph} is the legend?
    Is there an outlier?
    How many groups are compared in the {graph}?

chart_rank | chart | 9 58 20 13 | chart
    Which bar is the highest? [series]
    Is {series} ahead of {series2}?
    Which slice is the largest? [series]
    Which line ends up on top? [series]
    Does {series} have a longer bar than {series2}?
    Which group comes second? [series]
    Order the bars by height.
    In the {graph}, which comes out lowest?

ui_elements | position | 6 70 12 12 | screen
    Where is the {widget}?
    Is there {widget:a} on this screen?
    Where do I have to tap to go back?
    Which element should I click to pay?
    Is the {widget} to the {side} of the {widget2}?
    Which windows are open?
    Locate the {widget} and return its position.
    How many {widget:s} are there?
"""

FAMILIES["fine"] = """
colour_thing | attribute | 3 12 81 4
    What colour is the {object}? [colour]
    What color is the {thing}? [colour]
    Which colour does the {vehicle} have? [colour]
    Tell me the colour of the {garment}.
    Is the {object} {colour} or {colour2}?
    What shade of {colour} is the {thing}?
    color of the {thing}?

colour_part | part | 2 7 86 5
    What colour {part:be} the {owner}'s {part}? [colour]
    What color {part:be} the {part} of the {owner}? [colour]
    {part:be} the {part} of the {owner} {colour}?
    Which colour does the {owner} have on the {part}? [colour]
    Tell me the colour of the {part} of this {owner}.
    The {owner}'s {part}: {colour} or {colour2}?

colour_yesno | attribute | 4 13 79 4
    Is the {object} {colour}?
    Does the {thing} have the same colour as the {thing2}?
    Is this {garment} more {colour} than {colour2}?
    Are the {animal}'s feet {colour}?
    Is the {vehicle} painted {colour}?
    Has the {thing} been repainted in {colour}?

colours_list | attribute | 6 9 80 5
    List the colours of the {object}.
    How many colours does the {animal} have?
    How many different colours does the {garment} show?
    Which colours does the {animal}'s body show?
    Name each colour on the {garment}.
    In how many colours is the {thing} painted?

eye_skin_colour | attribute | 2 9 84 5
    What colour are the {animal}'s eyes? [colour]
    What is the {person}'s eye colour? [colour]
    What hair colour does the {person} have? [colour]
    Is the {person} blonde or dark-haired?
    Does the {person} have tanned skin?
    What tone is the {person}'s lipstick or make-up?

material | attribute | 2 9 85 4
    What is the {thing} made of? [material]
    Which material is this {thing}? [material]
    Is the {thing} made of {material} or {material2}?
    Of what material is the {garment}? [material]
    What material is used for the {part} of the {owner}? [material]
    Name the fabric of the {garment}. [material]

material_yesno | attribute | 2 9 85 4
    Is the {thing} made of {material}?
    {part:do} the {part} of the {owner} look like {material}?
    Is that real {material} or an imitation?
    Is the {garment} knitted?
    Would a magnet stick to the {thing}?
    Is the {thing} transparent?
    Is it a {material} {thing}?

shape | attribute | 3 11 81 5
    What shape is the {thing}? [shape]
    Is the {thing} {shape}?
    {part:be} the {part} of the {owner} {shape} or {shape2}?
    Describe the shape of the {thing}.
    Which form {part:do} the {owner}'s {part} have?
    Does the {thing} have rounded or sharp edges?
    What geometric shape does the {lettered} have? [shape]

pattern | attribute | 3 9 84 4
    What pattern does the {garment} have? [pattern]
    Is the {garment} {pattern} or {pattern2}?
    Is the {thing} {pattern}?
    Which design is printed on the {person}'s {garment}?
    Describe the pattern on the {thing}.
    What kind of markings does the {animal} have?
    Do the stripes on the {garment} run across or up and down?

texture | attribute | 2 7 87 4
    What texture does the {thing} have? [texture]
    Does the surface of the {thing} look {texture} or {texture2}?
    {part:be} the {owner}'s {part} {texture}?
    How does the {animal}'s skin or coat feel?
    Describe the surface of the {part} of the {owner}.
    Is the {material} of the {thing} {texture}?
    Does the {thing} have a shiny or a dull surface?

size_length | attribute | 3 15 76 6
    How long {part:be} the {owner}'s {part}?
    How thick is the {thing}?
    {part:be} the {owner}'s {part} long or short?
    How wide {part:be} the {part} of the {owner}?
    How tall is the {thing}?
    Is the {garment} too big for the {person}?
    How high are the heels?

open_closed | state | 3 14 81 2
    Is the {subject} {state} or {unstate}?
    Is the {subject} {state}?
    Can you tell if the {subject} is {unstate}?
    Is the {subject} still {state}?
    Did anyone leave the {subject} {unstate}?
    The {subject} should be {state}. Is it?

state_what | state | 4 14 79 3
    What state is the {subject} in?
    In what condition is the {subject}?
    How does the {subject} look: {state} or {unstate}?
    Describe the state of the {subject}.
    Has the {subject} changed since the first {pic}, is it now {unstate}?
    Tell me about the condition of the {thing}.
    Check the {subject}: {state}?

on_off | state | 4 15 75 6
    Is the {device} switched on?
    Is the {device} plugged in?
    Is the light in the window on?
    Is the {device} running or off?
    Are the brake lights of the {vehicle} lit?
    Is a light blinking on the {device}?
    Which colour is the light on the {device} right now?
    Is the traffic light red or green?

fullness | state | 3 14 75 8
    How full is the {container}?
    Is the glass half empty?
    Is there still some liquid in the jug?
    How much of the {food} has been eaten?
    Is the {person}'s cup empty?
    Does the bottle contain more than the glass?
    Is the tank nearly empty?

damage | state | 2 10 83 5
    Is the {thing} damaged?
    Is there {damage:a} in the {owner}'s {part}?
    Does the {thing} have {damage:a}?
    What is wrong with the {part} of this {owner}? [damage]
    Is the {device} broken?
    What kind of damage does the {vehicle} have? [damage]
    {part:be} the {owner}'s {part} intact?

damage_where | state | 2 16 76 6
    Where on the {owner} is the {damage}?
    Which part of the {vehicle} has been hit?
    Where is the {garment} torn?
    Where does the {device} have a crack?
    Which leg of the {thing} wobbles?
    Which corner of the {thing} has come off?
    Point out the {damage} on the {thing}.

cleanliness | state | 5 11 81 3
    Is the {thing} clean or dirty?
    Is there a stain on the {garment}?
    How dusty is the {thing}?
    Does the {thing} need washing?
    Are the {person}'s hands dirty?
    Is the {vehicle} muddy?
    Has somebody wiped the {thing}?

ripe_done | state | 3 11 83 3
    Is the {food} ripe?
    Is the {food} burnt?
    Is the {food} cooked through?
    Does the {food} look fresh?
    Is the {food} mouldy?
    How brown is the crust of the {food}?
    Can I still eat this {food}, or has it gone off?
    Has the dough risen enough?

food_look | attribute | 3 11 82 4
    What colour is the sauce on the {food}?
    Is the {food} cut into cubes or slices?
    What is sprinkled on top of the {food}?
    Describe the crust of the {food}.
    Is the {food} peeled?
    Has a bite been taken out of the {food}?
    Is the filling of the {food} creamy?

wet_dry | state | 5 11 81 3
    Is the {thing} wet?
    Is the {person}'s hair wet?
    Are the {garment:s} soaked or dry?
    Why is the {garment} wet?
    Is the {animal}'s coat dry?
    Is water dripping from the {thing}?
    Is there dew on the {plant}?

wear_age | state | 4 10 83 3
    Is the {thing} new or worn?
    How old does the {thing} look?
    Is the {vehicle} rusty?
    Has the paint on the {thing} faded?
    Does the {garment} look vintage or modern?
    Are the tyres of the {vehicle} worn down?
    Is the edge of the {thing} frayed?
    How much wear {part:do} the {owner}'s {part} show?

expression | attribute | 7 14 78 1
    What is the {person}'s facial expression? [face]
    Does the {person} look {face}?
    Is the {person} {face} or {face2}?
    How does the {person} seem to feel?
    Read the {person}'s face: {face} or {face2}?
    Is the {person} smiling?
    What emotion shows on the {person}'s face?
    Describe the look on the {person}'s face.

eyes_mouth | state | 3 11 84 2
    Are the {person}'s eyes open?
    Is the {animal}'s mouth open?
    Is the {person} winking?
    Does the {person} show teeth?
    Is the baby sticking out the tongue?
    Are there tears on the {person}'s cheeks?
    Is the {person} biting a lip?

head_direction | part | 3 16 80 1
    Which way is the {animal}'s head turned?
    Is the {person} facing the camera?
    Is the {person}'s head tilted?
    Do we see the {animal} from the side or from the front?
    In which direction do the {animal}'s ears point?
    Is the {person}'s back turned to us?
    Which way {part:do} the {owner}'s {part} point?

hair | part | 3 11 84 2
    Describe the {person}'s hair.
    Does the {person} have curly hair?
    Is the {person}'s hair long or short?
    What hairstyle does the {person} have?
    Is the {adult} bald?
    Does the {person} wear a ponytail or braids?
    On which side is the {person}'s parting?

facial_hair | part | 2 11 85 2
    Is the {person} clean-shaven?
    Does the {person} have a moustache?
    Has the old man trimmed the beard?
    What kind of beard is it: full, goatee or stubble?
    How bushy are the {person}'s eyebrows?
    Is the {adult}'s beard grey?

glasses_jewellery | part | 3 17 77 3
    Is the {person} wearing glasses?
    Does the {person} have earrings?
    What kind of jewellery does the {person} wear?
    Is there a ring on the {person}'s finger?
    What do the frames of the {person}'s glasses look like?
    Does the {person} wear nail polish?
    Does the {person} have a piercing or a tattoo?

garment_part | part | 2 9 84 5
    Does the {garment} have long or short sleeves?
    Does the {garment} have pockets?
    What kind of neckline is it?
    Is the {garment} hooded?
    How is the {garment} fastened, with a zip or with buttons?
    Describe the cuffs of the {garment}.
    How long is the hem of the {garment}?
    Does the {garment} have a lining?

garment_state | state | 3 12 82 3
    Is the {person}'s {garment} buttoned up?
    Are the sleeves rolled up?
    How many sleeves are rolled up?
    Is the {garment} ironed or wrinkled?
    Are the {person}'s shoelaces tied?
    Is the {garment} on inside out?
    Is the {garment} too tight?
    Is the {person} barefoot?

outfit | attribute | 5 16 77 2
    Describe the {person}'s outfit.
    What style of {garment} does the {person} wear?
    Is the {person}'s {garment} elegant or sporty?
    What do the {person}'s shoes look like?
    Describe the {garment} in detail.
    Compare the {garment:s} of the two {person:s}.
    What kind of {garment} is it?

gesture | part | 4 17 77 2
    Which gesture is the {person} making?
    Is the {person}'s {side} fist clenched?
    How is the {person} holding the {thing}: with one hand or two?
    Are the {person}'s arms crossed?
    Is the {person} giving a thumbs up?
    Which hand holds the {thing}?
    Where are the {person}'s hands?
    How many fingers is the {person} holding up?

posture | part | 5 19 75 1
    Are the {person}'s knees bent?
    Is the {person} standing upright?
    What posture does the {person} have?
    Is the {animal} lying on its back or on its side?
    Are the {person}'s legs crossed?
    Is the {adult}'s arm stretched out or bent?
    Are the {animal}'s front legs off the ground?
    Which foot is in front?

part_presence | part | 2 12 81 5
    Does the {animal} have horns?
    Does the {owner} have {part:a}?
    Can you see the {part} of the {owner}?
    {part:be} the {part} of the {owner} visible?
    Is there something on the {owner}'s {part}?
    Does the {vehicle} have a roof rack?
    Does the {thing} have a handle?
    Is the {animal} wearing a collar?

part_describe | part | 2 8 85 5
    Describe the {owner}'s {part}.
    What {part:do} the {part} of the {owner} look like?
    What's special about the {owner}'s {part}?
    Zoom in on the {owner}'s {part} and tell me about it.
    Take a close look at the {part} of the {owner}: how would you describe it?
    Give me details of the {owner}'s {part}.
    List the features of the {owner}'s {part}.

part_missing | part | 2 13 80 5
    Which part of the {owner} is missing?
    {part:be} the {owner}'s {part} missing?
    Does the {owner} still have its {part}?
    Is the {thing} complete or does a piece lack?
    {part:be} the {part} coming off the {owner}?
    Is one of the {animal}'s legs missing?

part_compare | part | 2 13 80 5
    {part:be} the {owner}'s {part} larger than usual?
    Do both {garment:s} have the same kind of fastening?
    Which of the two {animal:s} has the longer tail?
    Which {thing} is darker?
    Are the left and the right {part} of the {owner} alike?
    Compare the colours of the two {thing:s}.
    What is the difference between the {garment} on the left and the one on the right?

part_which | part | 2 14 79 5
    Which part of the {owner} is {colour}?
    What part of the {owner} is made of {material}?
    What is at the end of the {owner}'s {part}?
    What {part:be} the {owner}'s {part} attached to?
    Which of the {animal}'s paws is raised?
    What part of the {thing} is broken?

animal_body | attribute | 4 14 79 3
    Is the {animal} pregnant or just fat?
    Is the {animal} an adult or a young one?
    Is it a male or a female {animal}?
    Does the {animal} look healthy?
    Is the {animal} injured?
    Has the {animal} been shorn or groomed?
    What is the {animal}'s tail like?
    Is the {animal} asleep or awake?

fur_feathers | attribute | 2 8 86 4
    Is the {pet}'s fur long or short?
    Describe the plumage of the bird.
    Does the {pet} have spots or patches?
    Is the coat of the {pet} shiny?
    Are the feathers ruffled?
    How would you describe the {pet}'s coat?
    Are the scales of the fish iridescent?

plant_look | attribute | 3 10 83 4
    What shape are the leaves of the {plant}?
    Is the {plant} in bloom?
    What colour are the blossoms of the {plant}?
    Are there holes in the leaves of the {plant}?
    Does the {plant} need water?
    Are there brown spots on the {plant}?
    Is the stem of the {plant} thorny?

vehicle_detail | part | 3 13 79 5
    Does the {vehicle} have two doors or four?
    How many doors does the {vehicle} have?
    Is the roof of the {vehicle} open?
    Are the wheels of the {vehicle} turned to the {side}?
    Is the {vehicle}'s window down?
    What do the rims of the {vehicle} look like?
    Is the {vehicle}'s indicator on?
    Is the boot of the {vehicle} open?

building_detail | part | 4 13 79 4
    What is the roof of the {building} covered with?
    Are the shutters of the {building} closed?
    Does the {building} have a chimney?
    What shape are the windows of the {building}?
    Is the facade of the {building} crumbling?
    How steep is the roof of the {building}?
    What is the wall of the {building} built of?
    Are the columns of the {building} decorated?

furniture_detail | part | 3 12 81 4
    Does the chair have armrests?
    Is the sofa's cover leather or fabric?
    What kind of legs does the table have?
    Is the drawer of the desk open?
    Is the upholstery torn?
    Is the mattress bare?
    Does the shelf sag in the middle?

liquid | attribute | 3 11 81 5
    What colour is the drink? [colour]
    Is the water clear or cloudy?
    Is the coffee black or with milk?
    Is there ice in the {person}'s drink?
    Is there foam on the beer?
    Is the soup thick?
    Is the liquid in the tube {colour}?
    Is steam rising from the cup?

light_reflection | attribute | 8 11 78 3
    Is there a reflection on the {thing}?
    Is the {thing} glowing?
    On which side of the {thing} does the shadow fall?
    How glossy is the surface of the {thing}?
    Is the {person}'s face in the shade?
    What can be seen mirrored in the {person}'s glasses?

tool_part | part | 2 10 83 5
    Is the blade of the knife sharp?
    Is the {device}'s cable frayed?
    Is the nut on the bolt tightened?
    Is the {device}'s cover screwed on?
    What kind of tip does the screwdriver have?
    Is the handle of the {thing} bent?
    Is the plug pushed all the way in?
    Has the battery cover been removed from the {device}?

orientation | state | 3 17 77 3
    Is the {thing} upside down?
    Is the painting hanging straight?
    Is the {thing} lying on its side?
    Is the {thing} facing the wall?
    By how much is the {thing} tilted?
    {part:be} the {owner}'s {part} pointing up or down?
    Which side of the {thing} is up?

packaging | state | 3 11 78 8
    Is the seal of the jar broken?
    Is the parcel dented?
    Is the box taped up?
    What is the bottle's cap like, screw or cork?
    Is the gift wrapped?
    Is the can bulging?
    What colour is the lid of the jar?

sign_look | attribute | 4 13 70 13
    What colour is the sign?
    What shape does the road sign have?
    Is the {lettered} lit?
    What colour are the letters on the {lettered}?
    Is the symbol on the {lettered} an arrow or a circle?
    Is the {lettered} bent or dirty?
    What does the logo on the {lettered} look like?

flag_emblem | attribute | 3 10 76 11
    Which colours does the flag have?
    Does the flag bear a cross or a crescent?
    Describe the emblem on the {lettered}.
    Are the stripes of the flag vertical?
    What animal is on the coat of arms?
    Which symbol is embroidered on the {garment}?

outfit_reason | reasoning | 5 16 77 2
    Is the {person} dressed warmly enough?
    Why is the {person}'s {garment} dirty?
    Is the {person} wearing the seat belt?
    Is the {person}'s helmet strapped?
    Are the worker's gloves suitable?
    Are the {person}'s shoes right for hiking?
    Is the mask covering the {person}'s nose?

repair | reasoning | 3 12 80 5
    Can the {owner}'s {part} be repaired?
    What would I need to fix on the {thing}?
    {part:do} the {part} of the {owner} need replacing?
    Is the {thing} good enough to sell?
    Would you buy this {garment} second hand, given its condition?
    Is the {thing} assembled correctly?
    Why won't the {subject} stay {state}?

defect_inspection | state | 3 10 79 8
    Does this {thing} pass the quality check?
    Is the weld seam clean?
    Is there a defect in the {material}?
    Is the {thing}'s surface free of scratches?
    Is the label on the bottle crooked?
    Is the solder joint good?
    What type of defect does the {thing} have?

describe_object | captioning | 4 12 80 4
    Describe the {object}.
    Describe the appearance of the {thing}.
    What does the {object} look like?
    Give a precise description of the {garment}.
    Write a product description for this {thing}.
    Describe the {colour} {thing} so that I could recognise it.
    How would you describe the {animal}'s looks to the police?

person_features | attribute | 5 15 78 2
    How old does the {person} look?
    Describe the {person}'s face.
    Is the {person} slim or stout?
    Does the {person} have freckles or a scar?
    What distinguishing features does the {adult} have?
    Is the {person} pale?
    Is the {person} left-handed?

surgery_tip | surgical | 3 14 79 4 | surgery
    Is the {instrument} open or closed?
    Are the jaws of the {instrument} holding tissue?
    Is the tip of the {instrument} visible?
    Is the shaft of the {instrument} bent?
    Is there blood on the {instrument}?
    Is the tip of the {instrument} touching or just hovering?
    Is the needle loaded correctly in the {instrument}?

surgery_tissue | surgical | 5 14 77 4 | surgery
    What colour is the {organ}?
    Is the wall of the {organ} thickened?
    Is the {organ} inflamed?
    Is the {vessel} bleeding?
    Is the surface of the {organ} smooth?
    Has the {organ} been perforated?
    Is the tissue at the cut edge charred?
    Is the {organ} well perfused or pale?

surgery_state | surgical | 6 20 70 4 | surgery
    Has the {vessel} been cut?
    Is the {vessel} fully dissected free?
    Is the clip on the {vessel} sitting properly?
    Is the knot pulled tight?
    Is the retrieval bag closed?
    Is the suture line complete?
    Is the lens in the right position?
    Is smoke coming from the {instrument}?

med_lesion | medical | 2 10 82 6 | medical
    What shape is the {lesion}?
    Are the edges of the {lesion} sharp?
    What colour is the {lesion}?
    Is the {lesion} symmetrical?
    How dense is the {lesion}?
    Describe the {lesion}.
    Is the {lesion} solid or cystic?
    Is the {lesion} raised, and is it scaly?
    How large is the {lesion} compared with the vertebra?

med_state | medical | 4 14 78 4 | medical
    Is the bone of the {bodypart} displaced?
    Is the heart enlarged?
    Is the lung collapsed?
    Is the optic disc pale?
    Is the joint space of the {bodypart} narrowed?
    Is the wound infected?
    Does the skin around the {lesion} look red?
    Is the tip of the catheter in the right place?
    Is the cortex of the bone broken?

doc_style | document | 4 8 64 24 | document
    Is the heading printed in {colour}?
    Is the signature in blue or black ink?
    Which font style does the title have?
    Is the paragraph underlined or in italics?
    Is the {paper} folded or creased?
    What colour is the {block}?
    Is the stamp smudged?
    Is the first tick box crossed?

chart_style | chart | 4 12 66 18 | chart
    What colour is the line for {series}? [colour]
    Is the curve for {series} dashed or solid?
    Which marker shape stands for {series}?
    Which colour represents {series}? [colour]
    How steep is the curve of {series} near {category}?
    Are the bars of {series} hatched?
    Does the {colour} line flatten towards the end?
    Is the slice for {series} pulled out?

ui_state | state | 4 14 66 16 | screen
    Is the {widget} greyed out?
    Which tab is active?
    Is the {widget} highlighted?
    What colour is the {widget}?
    Is dark mode on?
    Is the toggle switched on?
    What does the icon of the {widget} look like?
    Is the volume slider all the way up?
"""

FAMILIES["finest"] = """
read_sign | ocr | 4 3 6 87
    What is written on the {lettered}?
    What does the {lettered} say?
    Read the {lettered}.
    What words are on the {lettered}?
    Please read out the text on the {lettered}.
    Tell me the wording of the {lettered}.
    text on {lettered}?

transcribe | ocr | 5 3 4 88
    Transcribe all text in this {pic}.
    What text appears in the {pic}?
    Extract the text.
    Run OCR on this {pic}.
    Type out the words exactly as they stand.
    Output every line of text, keeping the line breaks.
    Is there any text, and what is it?
    Read this aloud for me.

word_yesno | ocr | 3 3 6 88
    Does the {lettered} say "{word}"?
    Is the word "{word}" on the {lettered}?
    Is it "{word}" or "{word2}" that is printed there?
    Is the {lettered} spelled correctly?
    Can you find the word "{word}" in the text?
    Is there writing on the {lettered} that reads {word}?

word_position | ocr | 3 5 5 87
    What is the {ordinal} word on the {lettered}?
    What does the {ordinal} line say?
    Which word comes after "{word}"?
    With which letter does the name on the {lettered} begin?
    What is written under the word "{word}"?
    Which letters are missing from the neon sign?
    How many letters does the word on the {lettered} have?
    Where in the text is "{word}" mentioned?

brand | ocr | 3 7 15 75
    What brand is the {device}?
    Which company's name is on the {lettered}?
    Which make is the {vehicle}, judging by its badge?
    What name is printed on the {lettered}?
    What model name is stamped on the {device}?
    Whose logo is printed on the {garment}, and what does it read?
    Name the brand of the {food} from its pack.

field | document | 3 3 6 88 | document
    What is the {field} on the {doc}?
    Read the {field} from the {doc}.
    Which {field} does the {doc} give?
    Tell me the {field} on this {doc}.
    Find the {field} on the {doc} and write it down.
    Can you make out the {field} on the {doc}?
    Extract the {field}.
    {field}?

field_yesno | document | 3 3 6 88 | document
    Is the {field} on the {doc} readable, and what is it?
    Does the {doc} mention the {field}?
    Is there {field:a} on the {doc}? Write it out.
    Has the {field} been filled in on the {doc}? If so, with what?
    Is the {field} on the {doc} the same as on the other {doc}?
    Are the {field} and the heading of the {doc} spelled right?

field_json | document | 5 4 4 87 | document
    Return the fields of this {doc} as JSON.
    List all dates on the {doc}.
    List the numbers printed on the {doc}.
    Convert the {doc} into a CSV table with its values.
    Fill in: {field} = ?
    Which amounts of money does the {doc} mention?
    Which names appear on the {doc}?

price | ocr | 3 4 8 85
    How much does the {food} cost?
    What is the price of the {garment}?
    What does the tag on the {thing} say it costs?
    Is the {food} cheaper than the {food2}?
    What's the cheapest {food} here?
    How many euros do I have to pay for the {thing}?
    Is the price on the {lettered} in dollars?
    By how many percent has the {garment} been reduced?

date | ocr | 3 4 7 86
    When does the {food} expire?
    What date is printed on the {lettered}?
    When was the {building} built, according to the plaque?
    Which year is on the {lettered}?
    On what day does the shop close?
    What are the opening hours?
    Is the {food} past its date, if today is 3 May?
    What's the date stamp in the corner of the {pic}?

contact | ocr | 3 3 5 89
    What phone number is given on the {lettered}?
    What is the e-mail address?
    Which web address is on the {lettered}?
    Read out the postcode.
    Which street and house number does it say?
    What's the house number?
    Give me the hotline number from the {lettered}.
    What is the Wi-Fi name and key?

plate_codes | ocr | 2 3 6 89
    What is the licence plate of the {vehicle}?
    Read the registration number.
    What are the last {number} digits of the code?
    Read the barcode digits.
    Which serial number is on the {device}?
    What's the batch code on the {lettered}?
    What is the container number?
    Spell the plate letter by letter.
    Does the plate end in an even number?

numbers_worn | ocr | 3 8 10 79
    What number is on the {person}'s back?
    Which number does the {person} in the {colour} {garment} wear?
    What is the number of the {transport}?
    Which route number does the bus display?
    Which player wears number {number}?
    What number is painted on the boat?
    Is that {number} or {number2} on the jersey?
    What's the flat number on the door?

names | ocr | 4 5 7 84
    What is the name on the {person}'s tag?
    What name is written on the {lettered}?
    Whose name is engraved on the {thing}?
    How is the {person} called, going by the badge?
    What is the name of the ship?
    What is the shop called?
    What's the station called?
    Who wrote the book in the {pic}?
    Who is the letter from?
    Who is named on the gravestone?

title_headline | document | 8 4 5 83 | document
    What is the title of the book?
    What is the headline?
    What does the heading say?
    Read the subtitle to me.
    Which title is printed on the spine of the {ordinal} book?
    What's the name of the chapter?
    How is the figure captioned?
    What is the film on the poster called?

subtitles_screen | ocr | 5 4 5 86 | screen
    What is written on the screen?
    What does the error message say?
    Read the pop-up text.
    What is typed in the {widget}?
    What does the caption at the bottom of the video read?
    Which file names are listed?
    What is the label of the {widget}?
    How many unread messages does the badge show?
    What version number is displayed?

phone_status | reading | 4 4 6 86 | screen
    What percentage is the battery at?
    What time does the phone show?
    How many likes does the post have?
    How many notifications are shown?
    What's the download speed?
    Which temperature does the weather app give for Friday?
    How many steps were counted today?
    What is my current balance?

handwriting | ocr | 4 3 8 85
    What does the handwritten note say?
    Can you read the doctor's handwriting?
    Decipher the signature.
    What did the {person} scribble in the margin?
    What is written on the blackboard?
    What did my daughter write on her drawing?
    Is that a 1 or a 7?
    Copy out the recipe card.

graffiti_tattoo | ocr | 4 4 12 80
    What does the graffiti say?
    What does the {person}'s tattoo read?
    What is carved into the {spot}?
    Which words are embroidered on the {garment}?
    Which initials are engraved on the {thing}?
    What does the inscription on the {building} say?
    What's written in icing on the cake?
    What is the motto on the coat of arms?

translate | ocr | 6 3 4 87
    Translate the {lettered} into English.
    What does the foreign writing on the {lettered} mean?
    What does the Chinese character on the {lettered} say?
    Translate the menu for me.
    Say in German what the {lettered} says.
    Give me the text on the {lettered} and its translation.

menu_food | ocr | 4 4 6 86
    What is today's special?
    How much is the {food} on the menu?
    Which dishes on the menu contain {food}?
    How many calories does the {food} have according to the packet?
    Is sugar among the ingredients listed?
    What is the fat content printed on the pack?
    Which allergens are named?
    List the ingredients on the back of the {food} pack.

medicine | medical | 3 3 6 88 | medical
    How many milligrams does one tablet contain?
    How often do I have to take this, according to the leaflet?
    What is the name of the drug?
    When does the medicine expire?
    What does the warning on the bottle say?
    Which concentration is printed on the ampoule?
    What blood group is on the bag?

money | reading | 2 6 12 80
    What is the value of the coin?
    Which banknote is it, ten or twenty?
    How much money is on the table?
    How much change is that, in cents?
    What is the face value of the stamp?
    Read the year on the coin.
    What sum is displayed on the till?

meter_reading | reading | 2 4 12 82
    What {reading} does the {meter} show?
    What is the {reading} on the {meter}?
    Read the {meter}.
    Tell me the {reading} from the {meter}.
    What does the {meter} display?
    Where is the needle of the {meter}?
    Can you read off the {reading} on the {meter}?
    At which value is the {meter}?

meter_yesno | reading | 3 5 14 78
    Is the {reading} on the {meter} above {number}?
    Does the {meter} show more than {number}?
    Is the {meter} at {number} or at {number2}?
    Has the {meter} passed the {number} mark?
    Is the value of the {meter} in the green range?
    By how much does the {meter} exceed {number}?

clock | reading | 3 5 12 80
    What time is it?
    What time does the clock show?
    Where does the hour hand point?
    Is it past {number} on the clock?
    How many minutes to the full hour?
    Between which numbers is the minute hand?
    Describe the position of the clock's hands and give the time.
    Is the clock on the {building} slow, if it is noon?

score_time | ocr | 5 4 7 84
    What is the score?
    Which team is leading, according to the scoreboard?
    How many minutes are left to play?
    What does the display board say?
    What was the runner's time?
    How many points does the home team have?
    Which set is being played, and what is the tally?
    Does the screen show 2:1 or 1:2?

timetable | reasoning | 4 3 5 88
    When does the next {transport} leave?
    From which platform does the train depart?
    How late is the train on the board?
    Which gate does my flight leave from?
    Will I catch the 9:40 to town, according to the timetable?
    When is the museum open on Sundays?
    How long does the trip take, going by the timetable?
    Where does the {transport} go, according to its display?

road_sign | ocr | 4 6 9 81 | street
    What is the speed limit?
    How many kilometres is it to the next town?
    Which towns are on the signpost?
    What does the street sign say?
    What's the name of this street?
    Until what time may I park here?
    Which exit is signposted?
    What is the maximum height under the bridge?
    Am I allowed to park here, according to the sign?

table_cell | document | 4 4 4 88 | document
    What is the value in row {number}, column 2?
    What is in the {ordinal} cell of the table?
    Which row of the table has the highest number?
    What is the sum of the last column?
    What figure does the table list for {series}?
    Describe the entries of the {ordinal} row.
    What is {series}'s value for {category}?
    How many rows does the table have?

form_fill | document | 4 5 8 83 | document
    What did the applicant write as address?
    Which answer was ticked in question {number}?
    Which boxes are crossed?
    What is entered under occupation?
    Who signed at the bottom?
    Which mark did the student get?
    Is every field filled in? List what each one says.

fine_print | document | 3 3 6 88 | document
    What does the small print say?
    What does footnote {number} say?
    What does the watermark read?
    Read the tiny text at the {side} edge.
    What does the terms section say about refunds?
    How many days do I have to pay?
    Is the deadline mentioned in this {paper}? When is it?
    Which paragraph mentions {topic}? Quote it.

page_math | document | 4 3 4 89 | document
    What is the page number?
    What is the answer to exercise {number}?
    Solve the equation on the board.
    Write the formula as LaTeX.
    Is the calculation on the sheet right?
    Which exponent does x have in line {number}?
    What number is missing in the sequence?
    Does the sum on the {paper} add up?

code | document | 4 3 3 90 | screen
    What does line {number} of the code do?
    What is the variable name in the {ordinal} line?
    Copy the command from the terminal.
    In which line is the syntax error?
    Which Python version is installed, according to the output?
    What is the stack trace telling me, word for word?
    Is a semicolon missing at the end of line {number}?

chart_value | chart | 5 6 10 79 | chart
    What is the value of {series} in {category}?
    How high is the bar for {series}?
    How much {quantity} does the {graph} give for {category}?
    What percentage does {series} have?
    What was the {quantity} in {category}?
    Read off the y value at {category}.
    What number is written above the bar for {series}?
    At what value does the curve peak?

chart_compute | chart | 6 7 9 78 | chart
    By how much does {series} exceed {series2}?
    What is the difference between {category} and {category2}?
    What is the sum of {series} and {series2}?
    In which year did {series} pass the {number} mark?
    What's the average of the plotted values?
    How many bars are above {number}?
    Is the value for {category} higher than {number}?
    How many percentage points separate {series} and {series2}?

chart_labels | chart | 6 5 7 82 | chart
    What is the label of the y axis?
    What is the title of the {graph}?
    In which unit is {quantity} measured here?
    Where does the x axis start?
    What does the legend say?
    What is the highest tick on the vertical axis?
    List the categories named on the x axis.
    Which source is cited below the {graph}?
    How many categories are labelled?

map_label | ocr | 6 8 6 80
    What is the name of the river on the map?
    How high is the peak, according to the map?
    Which street runs parallel to the railway? Read its name.
    What is the scale of the map?
    Which metro station comes after the {ordinal} one?
    What is the number of the road?
    Which country borders {land} on this map?
    How many square metres does the plan give for the bedroom?

keys_symbols | ocr | 2 6 15 77
    Which key is next to the space bar?
    What symbol is on the button in the {corner}?
    Which letter is worn off on the keyboard?
    What does the laundry symbol on the {garment} say?
    Which warning lamp is on in the dashboard?
    Which card is it: what rank and suit?
    What note is the {ordinal} one in this bar of music?
    How many sharps does the key signature have?

chess_dice | reading | 2 10 13 75
    What number did the die roll?
    What is the total of the dice?
    Which domino lies at the end: how many pips?
    On which square is the black king, in notation?
    How many points is my hand worth?
    Which digit is missing in this sudoku row?
    What letters do I have on my Scrabble rack?
    What is the answer to {number} across?

tiny_count | counting | 1 5 22 72
    How many {specks} does the {carrier} have? [number]
    Count the {specks} on the {carrier}.
    How many {specks} are there on the {carrier}? [number]
    Give the exact number of {specks} on the {carrier}.
    Does the {carrier} have {number} {specks} or {number2}?
    What is the number of {specks} on this {carrier}? [number]
    Number of {specks} on the {carrier}?

tiny_count_two | counting | 1 6 22 71
    Has the {carrier} more than {number} {specks}?
    Which {carrier} has more {specks}, the left or the right one?
    Are there {number} {specks} on the {carrier}?
    Please count carefully: {specks} on the {carrier}.
    Is one of the {specks} on the {carrier} missing? How many remain?
    Exactly how many {specks} can be counted on the {carrier}?
    Does every {carrier} have the same number of {specks}?

tiny_count_body | counting | 2 6 22 70
    How many wrinkles are there around the {person}'s eyes? [number]
    How many eyelashes can be told apart? [number]
    How many petals does the {plant} have? [number]
    How many leaflets are on one leaf of the {plant}? [number]
    How many whiskers does the {animal} have on the {side}? [number]
    How many legs can you count on the insect?
    Count the rings on the {animal}'s tail.
    How many toes does the {animal} have on one foot? [number]
    How many stripes are on the {animal}'s flank? [number]

tiny_count_far | counting | 4 18 8 70
    How many tiny people are on the far ridge? [number]
    How many specks of birds are in the distance?
    How many windows does the {building} on the horizon have? [number]
    Count the minute boats on the skyline.
    How many panes does the window of the {building} have? [number]
    How many pixels-small {animal:s} can you spot far off? [number]
    How many bricks are in the {ordinal} row? [number]
    How many rungs of the ladder are visible? [number]

tiny_detail | attribute | 2 8 24 66
    What is in the tiny reflection in the {animal}'s eye?
    What is the speck on the {owner}'s {part}?
    Is there a hairline crack in the {thing}?
    Which tiny emblem is on the button of the {garment}?
    Is there a single hair on the {food}?
    Which minute object sits on the {person}'s fingertip?
    Is there an ant on the {plant}?
    Can a pinhole be seen in the {garment}?
    Where is the tiny insect on the leaf?

spot_difference | recognition | 5 12 20 63
    Find the small differences between these two {pic:s}.
    What tiny detail differs in the second {pic}?
    How many differences are there between the two {pic:s}?
    Which pixel-sized details have been retouched?
    Look for a hidden message in the {pic}. What does it say?
    Find the hidden number.
    Which digit do you see in the coloured dots?

ruler_measure | reading | 2 6 16 76
    How many millimetres long is the {thing} next to the ruler?
    Up to which mark is the jug filled?
    At which mark on the tape does the {thing} end?
    How many millilitres are in the syringe?
    Which size is printed inside the {garment}?
    How much does the {food} weigh on the scale?
    What shoe size is stamped on the sole?
    What angle does the protractor give?

surgery_monitor | surgical | 3 4 6 87 | surgery
    What values does the vital-signs monitor show?
    What is the oxygen saturation?
    What is the intra-abdominal pressure on the display?
    What time stamp does the surgical video have?
    Which patient name is overlaid on the frame?
    What power is the electrosurgical unit set to, in watts?
    Read the frame counter in the {corner}.
    Which size is printed on the {instrument}?
    What is written on the drug syringe's label?

surgery_tiny_count | surgical | 2 9 17 72 | surgery
    How many clips are on the {vessel}? [number]
    How many stitches have been placed in the {organ}? [number]
    How many throws does the knot have? [number]
    Count the staples along the line.
    How many tiny bleeding points are on the {organ}? [number]
    How many teeth do the jaws of the {instrument} have? [number]
    How many graduation marks of the {instrument} are visible? [number]
    How many air bubbles are in the drain? [number]

med_text | medical | 3 4 6 87 | medical
    What is the patient's name on the {modality}?
    What date was the {modality} taken?
    Is there an L or an R marker, and which?
    What does the annotation next to the arrow say?
    How many millimetres does the caliper measure?
    Which slice number is shown?
    What is the label in the {corner} of the {modality}?
    What window level is printed on the scan?
    What is the heart rate on the ECG?

med_tiny_count | medical | 2 8 20 70 | medical
    How many microcalcifications are in the cluster? [number]
    How many screws fix the plate? [number]
    How many tiny nodules can you count in the {bodypart}? [number]
    How many mitotic cells are in this field? [number]
    Count the microaneurysms.
    How many stitches were needed for the {lesion}? [number]
    How many milliseconds is the QRS complex on the grid?
    How many ribs can be counted above the diaphragm? [number]
    How many small boxes lie between two R waves? [number]

label_reasoning | reasoning | 3 4 7 86
    According to its label, is this {food} vegan?
    Which of the two packs is cheaper per kilo?
    Is the plug rated for {number} amps?
    Does the label forbid tumble drying the {garment}?
    May I mix this with bleach, going by what the bottle says?
    Which of the two {food:s} has more sugar per 100 g?
    Can an eight-year-old use this, judging by the age printed on the box?
    At how many degrees may I wash the {garment}?

letters_style | ocr | 3 4 17 76
    Which letter is larger than the others on the {lettered}?
    Is the word "{word}" written in capitals?
    Which word on the {lettered} is printed in {colour}?
    Which words are underlined in the {paper}?
    Which of the names on the {lettered} is crossed out?
    What is highlighted in {colour} in the text?
    Which digits are smudged?

describe_text | captioning | 6 5 8 81
    Describe what is printed on the {lettered}, word by word.
    Describe all the writing on the {lettered}.
    Explain what the {lettered} says.
    Tell me everything that is written on the {doc}, including the {field}.
    Give me the full text of the {paper}, top to bottom.
    Quote the speech bubble in the {ordinal} panel.
    Write down what the {person}'s sign says.
    What do the protesters' placards say?
"""


# Domains: the same objects asked about at every level, so that it is the question, not its nouns, that decides. Each
# becomes four families, `airport/coarse` to `airport/finest`.
DOMAIN_WEIGHTS = (
    (0.82, 0.13, 0.04, 0.01),
    (0.06, 0.80, 0.12, 0.02),
    (0.03, 0.11, 0.80, 0.06),
    (0.03, 0.05, 0.10, 0.82),
)
DOMAINS = """
airport | vqa
    coarse Does this terminal look like a big international hub or a small regional airfield?
    coarse Is the mood in the departure hall relaxed or stressed?
    coarse Tell me roughly what travellers are going through here.
    coarse Would you guess that it is the holiday rush?
    coarse Is that the arrivals hall or the tarmac outside?
    coarse Is a strike going on, judging by the general picture?
    medium Has somebody left a bag unattended by the seats?
    medium What is the loader lifting out of the hold?
    medium Who is pushing the luggage trolley?
    medium Is the dog sniffing at the {colour} suitcase or at the crate beside it?
    medium How many planes are parked at the gates?
    medium Which way is the tug pulling the aircraft?
    fine Is the suitcase's wheel broken off?
    fine What colour is the ribbon tied to my bag's handle?
    fine Are the flaps on the wing extended?
    fine Does the hard shell have a crack along the edge?
    fine Is the steward's tie knotted properly?
    fine Is the engine cowling scratched?
    finest Which gate is printed on the boarding card?
    finest What's the three-letter code on the luggage tag?
    finest Is flight {number}4 delayed, and until when?
    finest What carry-on weight limit does the notice give?
    finest Read the tail number of the plane.
    finest How many rivets run along the edge of the panel?

farm | vqa
    coarse Is it a large industrial farm or a small family one?
    coarse Does the yard give you an idyllic or a neglected feeling?
    coarse What part of the farming year are we in?
    coarse Has there been a drought in the region?
    coarse Write two lines about rural life based on this.
    coarse Overall, is the harvest over?
    medium What is the tractor pulling across the field?
    medium Are the hens inside the run or have they got out?
    medium Is the farmer feeding the calves or milking?
    medium What's standing beside the silo?
    medium How many bales are stacked next to the barn?
    medium Which animal is drinking from the trough?
    fine Are the cow's udders swollen?
    fine Is the wool of the ram thick or freshly shorn?
    fine Which colour is the tag in the calf's ear?
    fine Is the tractor's front loader bent?
    fine Are the wheat ears golden or still green?
    fine Does the rooster have a big comb?
    finest What is the number on the ear tag?
    finest What brand of feed is printed on the sack?
    finest How many kernels sit in one row of the cob?
    finest Read the hours off the tractor's counter.
    finest What weight does the livestock scale indicate?
    finest How many eggs marked with a stamp have the code 0?

museum | vqa
    coarse What kind of museum might this hall belong to?
    coarse Is the exhibition about nature, technology or art?
    coarse How does the room make visitors feel?
    coarse Is the gallery open to the public right now or being rebuilt?
    coarse Explain what sort of exhibition we walked into.
    coarse Which civilisation does the display as a whole speak of?
    medium Which exhibit are the children crowding around?
    medium Is the guard standing by the doorway or walking around?
    medium What is displayed in the glass case next to the sarcophagus?
    medium Is there a bench where I can rest in front of the large canvas?
    medium What is the knight in the painting riding?
    medium How many statues line the wall?
    fine Is the nose of the bust chipped?
    fine What is the mask carved from?
    fine Does the glaze of the vase show fine crackle?
    fine Is the gold leaf on the frame flaking off?
    fine Which way is the portrait's sitter looking?
    fine What are the folds of the marble robe like?
    finest What does the card beside the exhibit say?
    finest In which year was it painted, according to the label?
    finest Who is the artist named on the plate?
    finest What is the inventory number?
    finest Can you make out the signature in the lower corner of the canvas?
    finest How many figures are engraved on the little seal?

restaurant | vqa
    coarse Is it fine dining or a snack bar?
    coarse Romantic dinner or business lunch: which fits better?
    coarse What cuisine does the place seem to offer?
    coarse Is the restaurant doing good business tonight?
    coarse Would I feel comfortable there with toddlers?
    coarse How would you review the ambience?
    medium What did the waiter just put on the table?
    medium Who is paying?
    medium Is the high chair standing at our table or at the next one?
    medium Which guest is drinking wine?
    medium Are there any forks left on the table?
    medium What dish is the girl sharing with her father?
    fine Is the steak pink inside?
    fine Is the wine white or rosé?
    fine Has the tablecloth got a stain?
    fine Are the noodles overcooked?
    fine What do the edges of the plate look like?
    fine Is the lobster's claw already cracked open?
    finest What does the bill come to?
    finest How much is the tasting menu?
    finest What vintage is on the wine label?
    finest What table number is on the little stand?
    finest How many olives are on the toothpick?
    finest What is handwritten under 'Soups' on the chalkboard?

supermarket | vqa
    coarse Is the shop crowded, or is it a quiet moment?
    coarse Which section of the store are we in?
    coarse Does the supermarket look like a discounter or an upmarket one?
    coarse Are they preparing for Easter or for Halloween, going by the decoration everywhere?
    coarse What is going on in the store in general?
    coarse How tidy does the whole aisle look?
    medium What is in the old lady's trolley?
    medium Are the eggs next to the milk?
    medium Who is standing at till three?
    medium Is there washing powder on the bottom shelf?
    medium What has fallen off the shelf?
    medium Has the boy put the sweets into the basket?
    fine Are the tomatoes soft or firm?
    fine Is the packet of crisps torn?
    fine What colour is the cap on the skimmed milk?
    fine Does the lettuce look wilted?
    fine Is the freezer door ajar?
    fine Is the tin dented near its rim?
    finest What's the price per kilo of the grapes?
    finest Which sort of flour is it, by the type number?
    finest How many grams are in a pack?
    finest Is it lactose-free according to the carton?
    finest Which aisle number hangs from the ceiling?
    finest What is the discount on the sticker?

clothes | vqa
    coarse Is this a fashion shoot or someone's wardrobe?
    coarse What look are they going for, street style or evening wear?
    coarse What occasion would these outfits as a whole be meant for?
    coarse Is the collection meant for winter sports or for the beach?
    coarse Name the fashion decade.
    coarse Give the lookbook page a slogan.
    medium What is hanging on the hook by the mirror?
    medium Who is trying on the hat?
    medium Are the shoes on the rack or in the box?
    medium Is the model carrying a bag?
    medium How many dresses are on the rail?
    medium Which of the two mannequins wears the coat?
    fine Does the skirt have pleats?
    fine Is the zip at the back or on the side?
    fine Are the cuffs frayed?
    fine Is the knit ribbed or cabled?
    fine What kind of heel does the sandal have?
    fine Does the scarf match the gloves in colour?
    finest Which size is on the tag?
    finest How hot may I wash it, says the care label?
    finest What's embroidered on the chest pocket?
    finest How many eyelets are there on each side of the boot?
    finest How many sequins are missing from the sleeve?
    finest What percentage of cotton is in it?

house_for_sale | vqa
    coarse Is it a modern or an old house on the whole?
    coarse Does the flat look lived-in or staged for the ad?
    coarse What's your general impression of the property?
    coarse How bright is the apartment?
    coarse Is this more a holiday home or a permanent residence?
    coarse Write the first sentence of a listing for this home.
    medium Is there a radiator under the window?
    medium What is left of the chimney breast?
    medium Does the kitchen come with a dishwasher?
    medium How many doors lead off the hallway?
    medium Is the bathtub next to the toilet?
    medium What did the sellers leave in the garage?
    fine Are there mould stains in the corner of the ceiling?
    fine Is the parquet laid in a herringbone pattern?
    fine What are the kitchen fronts made of?
    fine Are the window frames painted or plain wood?
    fine Is a tile on the roof cracked?
    fine Does the banister wobble or look loose?
    finest What is the asking price?
    finest How many square metres does the plan state?
    finest What is the name on the doorbell?
    finest What energy class is on the certificate?
    finest Read the meter number in the cellar.
    finest How many panes does the skylight have?

traffic | vqa
    coarse Is the junction in a residential area or on a motorway?
    coarse Driving conditions: good, fair or poor?
    coarse Was it raining when the dashcam recorded this?
    coarse Sum up the traffic situation for the next driver.
    coarse Is this some kind of diversion or roadworks zone?
    coarse Rural road, tunnel or city street?
    medium Is the lorry overtaking the coach?
    medium What is the cyclist carrying on the rack?
    medium Is a child running after the ball onto the road?
    medium Which car has the right of way, the one on the left or the one on the right?
    medium Is any vehicle standing on the hard shoulder?
    medium Where is the police officer standing?
    fine Which light is lit, red or amber?
    fine Is the lane marking dashed or solid?
    fine Is the left indicator of the van blinking?
    fine Is the windscreen wiper moving?
    fine Are the tyres of the bike worn?
    fine Is the bumper of the taxi hanging loose?
    finest How fast may I drive here?
    finest Which towns does the blue sign point to?
    finest What's the registration of the car that cut me off?
    finest Until what hour is parking free?
    finest How many metres to the roadworks?
    finest What is the bus line on the display?

accident_claim | vqa
    coarse Is this the scene of an accident or simply a car park?
    coarse Write a summary of the situation for the insurance.
    coarse How serious does the whole thing look?
    coarse What happened here, in two sentences?
    coarse Was it dark when it happened?
    coarse Is this a case for the fire brigade?
    medium Which car ran into which?
    medium Is there another vehicle involved?
    medium Where was the scooter lying?
    medium What did the lorry hit?
    medium Is someone lying on the ground?
    medium Did the tree fall on the car or on the fence?
    fine Is the mirror snapped off?
    fine How deep is the dent in the wing?
    fine Which door is bent?
    fine Has the airbag gone off?
    fine Is the windshield shattered or only chipped?
    fine Are there paint traces of another colour on the bumper?
    finest What is the policy number on the card?
    finest What mileage does the odometer show?
    finest Note the plate of the other car.
    finest At what time was the photo stamped?
    finest How many scratches run across the door?
    finest Which chassis number is stamped into the frame?

workshop | vqa
    coarse What trade is practised in this workshop?
    coarse Does the workshop look orderly or chaotic?
    coarse Is it a hobby room or a professional garage?
    coarse What stage is the restoration project at?
    coarse Describe the workplace for a job ad.
    coarse Is work in progress or has everyone gone home?
    medium Which tool hangs between the pliers and the saw?
    medium What is clamped in the vice?
    medium Is the drill lying on the bench or on the floor?
    medium What is the apprentice sanding?
    medium Is there a fire blanket on the wall?
    medium What did he put under the car to lift it?
    fine Is the chisel's edge blunt?
    fine Is the cable of the grinder damaged?
    fine What sort of head does the screw have?
    fine Is the glue still wet?
    fine Is the board warped?
    fine Has the bolt rusted through?
    finest What size is stamped on the spanner?
    finest How many threads per centimetre does the bolt have?
    finest What torque does the wrench read?
    finest Which grit is printed on the sandpaper?
    finest How long is the piece according to the folding rule?
    finest What amperage is on the fuse?

electronics | vqa
    coarse What kind of device have we opened up here?
    coarse Is this a prototype or a finished product?
    coarse Is it a tidy set-up or a jumble of cables?
    coarse What is the purpose of this whole arrangement?
    coarse Is this a server room or a home office?
    coarse Give an overview of the installation.
    medium Which cable goes to the monitor?
    medium Is the battery still in the device?
    medium Where is the fan mounted?
    medium Which component sits next to the large chip?
    medium Is a memory card in the slot?
    medium What is the router standing on?
    fine Is the capacitor bulging?
    fine Which colour is the earth wire?
    fine Is the connector pushed in properly?
    fine Are the contacts corroded?
    fine Is the LED on the switch green or orange?
    fine Is the insulation of the cable melted?
    finest What is the part number on the chip?
    finest What resistance do the rings of the resistor stand for?
    finest What does the label on the power supply say?
    finest How many pins does the connector have?
    finest What is the MAC address on the sticker?
    finest Which port numbers are in use?

lab | vqa
    coarse What sort of laboratory is this?
    coarse Is an experiment running, or is it the clean-up?
    coarse At what point of the protocol are we?
    coarse Is it a school lab or a research institute?
    coarse Describe the general set-up of the experiment.
    coarse Is it a chemistry or a biology lesson?
    medium What is the researcher pipetting into?
    medium Is the flask standing on the hot plate?
    medium Which apparatus is next to the centrifuge?
    medium Is the lab assistant wearing goggles?
    medium How many test tubes are in the rack?
    medium What has been put under the fume hood?
    fine What colour did the indicator turn?
    fine Is the solution clear or turbid?
    fine Is the stopper in the flask loose?
    fine Is there a sediment at the bottom of the tube?
    fine Does the flame burn blue or yellow?
    fine Is the gel cracked?
    finest What volume does the meniscus mark in the burette?
    finest What's written on the cap of the tube?
    finest How many colonies grew on the plate?
    finest How many bands can be made out in the third lane?
    finest What is the pH on the meter?
    finest What hazard statement is on the bottle?

school | vqa
    coarse What age group is this lesson for?
    coarse Is it a lively or a disciplined class?
    coarse What subject is being taught, broadly?
    coarse Is the classroom from today or a hundred years ago?
    coarse Is this an exam or group work?
    coarse Give the atmosphere of the first day at school in a sentence.
    medium Who is raising a hand?
    medium Where has the teacher put the globe?
    medium What is the pupil at the back drawing with?
    medium Are the satchels under the desks?
    medium How many children sit in the front row?
    medium Which pupil stands at the board?
    fine Is the pencil's point broken?
    fine Is the boy's jumper on back to front?
    fine Is the exercise book's cover torn?
    fine Does the girl look bored?
    fine What colour did she use for the sun in her drawing?
    fine Are the edges of the paper model glued neatly?
    finest What mark did the essay get?
    finest Which sum is on the board?
    finest What homework is written down for Thursday?
    finest Is question 4 answered correctly?
    finest How many spelling mistakes are underlined?
    finest Which date is at the top of the worksheet?

football | vqa
    coarse Is it a friendly kick-about or a cup final?
    coarse How is the mood in the stands?
    coarse Are we before kick-off or at half-time?
    coarse Is the game being played in rain or sunshine?
    coarse What moment of the game was captured?
    coarse Think of a dramatic headline for this match scene.
    medium Who is taking the corner?
    medium Where is the goalkeeper standing?
    medium Is the striker offside?
    medium Which team has the ball?
    medium How many players form the wall?
    medium Is the referee showing a card to the defender?
    fine Is the card yellow or red?
    fine Is the defender's sock pulled down?
    fine What colour are the keeper's gloves?
    fine Is the captain's armband on the left arm?
    fine Is the striker's standing leg bent?
    fine Is the net torn?
    finest Which number is on the striker's shorts?
    finest What minute is shown on the screen?
    finest Which sponsor is on the perimeter board?
    finest What's the final result on the display?
    finest How many studs are under the boot?
    finest What name is above the number?

racket_and_water_sports | vqa
    coarse Is it an Olympic event or a school tournament?
    coarse Which discipline is this?
    coarse Is the race just starting?
    coarse How would you describe the spirit of the competition?
    coarse Professional or amateur sport?
    coarse Is it an indoor court or clay outside?
    medium Who is about to serve?
    medium Where did the ball land, in or out?
    medium Which swimmer is in front?
    medium What does the coach hold in her hand?
    medium Is the surfer on the board or in the water?
    medium Is there a lifeguard by the pool?
    fine Is the racket's string broken?
    fine Is the diver's body fully stretched?
    fine Are the rower's hands blistered?
    fine What grip does the player use, one hand or two?
    fine Is the swimmer's cap white?
    fine Are her feet together when she jumps?
    finest What is the tie-break score?
    finest What time did lane five swim?
    finest Which country code is on the cap?
    finest What is the start number on the thigh?
    finest How many lanes' names are listed on the board?
    finest What speed was measured for the serve?

gym | vqa
    coarse Is this a gym, a physiotherapy practice or a dance studio?
    coarse What type of training is going on?
    coarse Does the place seem motivating?
    coarse Beginners' class or advanced?
    coarse Is the studio empty or full?
    coarse What is the workout about in general?
    medium What is she lifting?
    medium Is the trainer helping the man on the bench?
    medium Where are the kettlebells?
    medium Is anybody using the rowing machine?
    medium What lies beside the mat?
    medium How many people are on treadmills?
    fine Is his back straight?
    fine Are her elbows locked?
    fine Do his heels touch the floor?
    fine Is the seat of the bike set too low?
    fine Are the laces of his trainers tied?
    fine Is her left knee over the toes?
    finest How many kilos are on each side of the bar, by the numbers?
    finest What heart rate does her watch show?
    finest What level is the treadmill set to?
    finest How many calories does the display count?
    finest What does the slogan on his tank top say?
    finest How many notches is the belt tightened to?

beach | vqa
    coarse Is it peak season at this resort?
    coarse Is the sea calm or rough?
    coarse What would a day here feel like?
    coarse Tropical island or northern coast?
    coarse Is it safe to swim under these conditions?
    coarse Write a postcard greeting from this beach.
    medium What are the kids building?
    medium Is anyone under the parasol?
    medium What has been washed ashore?
    medium Is the lifeguard's chair occupied?
    medium Where did we leave our towels?
    medium How many surfers are waiting for a wave?
    fine Is the sandcastle's tower crumbling?
    fine What stripes does the parasol have?
    fine Is the shell broken?
    fine Is his back sunburnt?
    fine Are the child's armbands inflated?
    fine Is the deckchair folded?
    finest What does the warning board about currents say?
    finest Which flag number or letter is on the mast?
    finest How many grooves does the scallop shell have?
    finest What sun factor is on the lotion?
    finest What is the price of renting a sunbed?
    finest What is the boat's name on the bow?

mountains | vqa
    coarse How remote does this valley feel?
    coarse Is it a glacier region or gentle hill country?
    coarse Are the conditions good for hiking?
    coarse Is a storm brewing over the range?
    coarse Describe the panorama.
    coarse Is it spring or late autumn up there?
    medium Is there a hut next to the lake?
    medium Which way does the path go at the fork?
    medium Who is at the front of the rope team?
    medium What is the climber hanging from?
    medium Are there chamois on the slope?
    medium Is the cable car above the forest already?
    fine Is the carabiner closed?
    fine Are her boots laced up to the top?
    fine Is the rope frayed near the knot?
    fine What does the cross on the summit look like?
    fine Is the snow on the ledge fresh or icy?
    fine Is the hiker's pole bent?
    finest How many hours to the hut, according to the signpost?
    finest What altitude is marked on the summit plate?
    finest Which trail number is on the yellow arrow?
    finest What does the entry in the summit book say?
    finest How many bolts are there on the route?
    finest What is the contour interval on the map?

harbour | vqa
    coarse Is it a fishing port or a container terminal?
    coarse Does the port look busy today?
    coarse What's the atmosphere like on the waterfront?
    coarse Is it low tide?
    coarse What kind of voyage might begin here?
    coarse Give a broad description of the docks.
    medium What is the crane unloading?
    medium Which boat is moored next to the ferry?
    medium Is a man on deck or on the pier?
    medium Are there seagulls on the mast?
    medium How many sailing boats are leaving?
    medium Where is the lighthouse from here?
    fine Is the hull covered in barnacles?
    fine Is the sail torn?
    fine Which colour is the funnel?
    fine Is the rope tied with a proper knot?
    fine Are the portholes open?
    fine Is the anchor chain rusty?
    finest What is the ship called?
    finest What home port is painted on the stern?
    finest Which number is on the container?
    finest What draught does the scale on the hull show?
    finest How many knots does the log display?
    finest Which flag letters are hoisted?

railway | vqa
    coarse Is this a terminus or a country halt?
    coarse Is this a sleepy stop on a branch line?
    coarse Does the photo feel nostalgic, with the steam and all?
    coarse What is the situation on the platform in general?
    coarse Metro, tram or long-distance travel?
    coarse What period does the station date from?
    medium Is the train arriving or leaving?
    medium Who is standing behind the yellow line?
    medium Is a bicycle in the carriage?
    medium What is the conductor checking?
    medium How many coaches does the train have?
    medium Is there a free seat next to the window?
    fine Are the doors shut?
    fine Is the pantograph raised?
    fine What colour are the seats?
    fine Is the window of the carriage scratched?
    fine Is the signal showing red?
    fine Are the rails rusty or shiny?
    finest Where does this train terminate, says the board?
    finest On which track does it leave?
    finest What coach and seat are on my reservation?
    finest What's the engine's number?
    finest What does the announcement on the display say?
    finest At what time is the connection to the coast?

pets | vqa
    coarse Is the scene sweet or sad?
    coarse What's the funniest thing to say about this pet photo?
    coarse Was this taken at home or at the vet's?
    coarse Which kind of mood is the household in?
    coarse Make a birthday card text from this.
    coarse Is it bedtime or playtime?
    medium What has the puppy stolen?
    medium Is the cat on the windowsill or behind the curtain?
    medium Which of the animals sleeps in the basket?
    medium Is the hamster in its cage?
    medium What are the kittens playing with?
    medium Did the rabbit get into the vegetable patch?
    fine Is the dog's ear inflamed?
    fine Are the kitten's eyes still blue?
    fine Is the collar too tight?
    fine Does the puppy have white socks on its paws?
    fine Is the budgie's feather bent?
    fine Are the cat's claws out?
    finest What name is engraved on the collar's tag?
    finest Which vet's number is on the back of the tag?
    finest How many whiskers are on the left cheek?
    finest How much does the dog weigh on the scale?
    finest What dose is on the worming tablets?
    finest How many ticks are stuck in the fur?

birds_and_insects | vqa
    coarse What habitat is this wildlife photo from?
    coarse Does it look like migration time?
    coarse Nature documentary or garden snapshot?
    coarse What general impression does this nature shot give?
    coarse Is it dawn over the marsh?
    coarse Is the nature reserve in good shape as a whole?
    medium Is the stork on the nest?
    medium What is the beetle sitting on?
    medium How many ducklings swim behind their mother?
    medium Which bird is feeding the chicks?
    medium Is the spider next to its prey?
    medium Has a bee landed on the thistle?
    fine Is the breast of the robin pale?
    fine Are the dragonfly's wings transparent?
    fine Is the beak long and thin or short and stout?
    fine Do the antennae end in a club?
    fine Does the caterpillar have hairs?
    fine Is the crown of the bird striped?
    finest How many spots are on each wing case?
    finest What's on the ring around its leg?
    finest How many segments does the antenna have?
    finest How many eggs are in the nest?
    finest How many eyes does the spider have?
    finest Is there a mite on the bee, and how many?

plants | vqa
    coarse Is this a botanical garden or a wild meadow?
    coarse Which climate zone do these plants suggest?
    coarse Does the garden as a whole look cared for?
    coarse Is it early spring in this garden?
    coarse Suggest a theme for this flower show.
    coarse What is the style of the garden, English or Japanese?
    medium What is growing between the paving stones?
    medium Is there a hedge behind the roses?
    medium Which pots are standing in the sun?
    medium Is the gardener pruning or planting?
    medium How many trees are in the orchard row?
    medium What has the snail settled on?
    fine Are the leaves rolled up?
    fine Are roots growing out of the bottom of the pot?
    fine Are the leaf edges toothed or smooth?
    fine Does the stem have thorns?
    fine Is the soil in the pot dry?
    fine Is the bud about to open?
    finest How many petals does a single blossom have?
    finest What is the plant's Latin name on the stick?
    finest How many aphids sit on the shoot?
    finest How many stamens can be seen?
    finest What does the seed packet say about sowing depth?
    finest What moisture value does the probe show?

cooking | vqa
    coarse What kind of meal is being prepared?
    coarse How far has the cook got?
    coarse Is this a home kitchen or a professional one?
    coarse Does the meal look healthy?
    coarse Is it a quick weekday supper or a feast?
    coarse Describe the cooking scene for a food blog.
    medium What's in the pan?
    medium Which ingredient is she adding now?
    medium Is the lid beside the pot?
    medium Who is chopping the onions?
    medium What is he stirring with?
    medium Are the spices on the shelf or on the counter?
    fine Is the butter melted?
    fine Has the sauce thickened?
    fine Are the onions chopped finely or coarsely?
    fine Is the bottom of the pancake brown?
    fine Is the knife held with the fingers tucked in?
    fine Is the gas flame high or low?
    finest What temperature is the oven on?
    finest How many minutes are on the timer?
    finest How much flour is on the scale?
    finest What quantity of milk does the recipe ask for?
    finest How many cloves are stuck in the orange?
    finest Which spice is it, according to the jar?

baby_and_family | vqa
    coarse Does this family look happy together?
    coarse What family occasion is it?
    coarse Is this a studio portrait or an everyday moment?
    coarse How would grandma describe this picture?
    coarse When in my childhood might this have been taken, roughly?
    coarse What is the feeling of this family photo?
    medium Who is holding the baby?
    medium Which child sits on grandpa's lap?
    medium What is the toddler playing with?
    medium Is the pram standing by the door?
    medium How many generations are in the photo?
    medium Is the aunt on the far left or the far right?
    fine Does the baby have hair?
    fine Is the dummy in the baby's mouth?
    fine Is grandma's hair dyed?
    fine Are the twins' outfits the same?
    fine Has the boy lost his front teeth?
    fine Is dad's shirt untucked?
    finest What's on the baby's name bracelet?
    finest Which date is written on the back?
    finest How many candles are lit on the birthday cake?
    finest What does the balloon say?
    finest How many centimetres does the growth chart show?
    finest How many teeth does the baby have?

concert | vqa
    coarse What genre of music would you expect here?
    coarse Is this a rehearsal or the actual show?
    coarse How is the energy in the hall?
    coarse Open-air festival or chamber concert?
    coarse What's the stage atmosphere like?
    coarse Would you call the lighting of the show dramatic?
    medium What does the woman in the middle play?
    medium Is the drummer behind the singer?
    medium Which instruments are on stage?
    medium How many violinists are there?
    medium What has been thrown onto the stage?
    medium Is the conductor facing the choir?
    fine Is the guitar's string broken?
    fine Are the pianist's hands crossed?
    fine Which colour is the singer's hair?
    fine Is the cello's varnish worn?
    fine Is the trumpet muted?
    fine Is her mouth close to the microphone?
    finest What tempo is marked on the score?
    finest What's the band's name on the bass drum?
    finest Which song is third on the set list?
    finest How many strings does the lute have?
    finest What volume are the faders set to?
    finest What does the ticket say about the doors?

art | vqa
    coarse What subject does the artwork deal with?
    coarse Is the painting calm or dramatic?
    coarse Which period of art history is it?
    coarse What did the artist want us to feel?
    coarse Is the technique watercolour or oil?
    coarse How would a museum guide introduce this work?
    medium Who is kneeling in front of the king?
    medium What lies at the saint's feet?
    medium Is the angel above the shepherds?
    medium Which figures are fighting?
    medium Is a dog hidden somewhere in the painting?
    medium What objects make up the still life?
    fine Which colour is the Madonna's cloak?
    fine Are the brush strokes of the sky thick?
    fine Is the hand of the figure raised in blessing?
    fine What does the drapery look like?
    fine Is the figure's mouth smiling?
    fine Is the varnish cracked over the face?
    finest Where did the artist sign, and what does it read?
    finest What is written on the scroll?
    finest How many pearls does the necklace have?
    finest How many tiny figures are in the boat far away?
    finest What year follows the monogram?
    finest Which edition number is pencilled below the print?

comic | vqa
    coarse What is the comic strip about?
    coarse Is the humour dark or light?
    coarse In what setting does the comic take place?
    coarse What makes the cartoon political?
    coarse Summarise the strip's plot.
    coarse Who is the intended readership, kids or adults?
    medium Who is the hero talking to?
    medium What is the villain hiding?
    medium In which panel does the dog appear?
    medium What falls on the man's head?
    medium How many characters are in the last frame?
    medium Is the robot on the left of the girl?
    fine What expression does the cat have in panel two?
    fine What's the emblem on the hero's chest like?
    fine Is the villain's cape purple?
    fine Does the robot have one eye or two?
    fine Are the lines of the drawing thick?
    fine Is the hero's mask on or off?
    finest What does the speech balloon say?
    finest Which sound word is printed in the explosion?
    finest What is the issue number?
    finest What's the name in the tiny credit line?
    finest What does the sign on the shop in the background read?
    finest How many exclamation marks are in the last balloon?

news_and_politics | vqa
    coarse What is the news story behind this photograph?
    coarse Is the demonstration peaceful?
    coarse Does the photo support or criticise the government?
    coarse Is it a summit, a debate or a campaign rally?
    coarse What tone does the front page strike?
    coarse Is the crisis still going on?
    medium Who is shaking hands?
    medium What is being thrown at the police?
    medium Where does the minister stand?
    medium Are there more flags or more banners?
    medium Is the journalist behind the barrier?
    medium Which politician is speaking?
    fine Is the president's tie blue?
    fine Does she look angry at the podium?
    fine Is the banner torn?
    fine What kind of helmet do the officers wear?
    fine Is his right hand on the book?
    fine Is the candidate's jacket buttoned?
    finest What demand is written on the banner?
    finest What does the ticker at the bottom say?
    finest What share of the votes is shown for the left party?
    finest What is the name plate in front of the speaker?
    finest Which newspaper is it, and of which date?
    finest How many seats did they win according to the graphic?

security_camera | vqa
    coarse Is everything quiet, or has something happened?
    coarse Was this recorded by day or at night?
    coarse What place does the camera watch over?
    coarse Describe the general situation on the CCTV frame.
    coarse Does it look like a break-in?
    coarse Is the footage clear enough to be used?
    medium How many persons entered the building?
    medium What is the man by the fence carrying?
    medium Did anybody leave a parcel at the door?
    medium Is the guard at his post?
    medium Which direction did the burglar run?
    medium Is a car parked in the driveway?
    fine What is the suspect wearing on his head, a hood or a cap of which colour?
    fine Is the door forced open?
    fine Does the intruder have a tattoo on the neck?
    fine Is the lens dirty?
    fine Is the padlock cut?
    fine Is the thief limping on the left leg?
    finest What is the time stamp?
    finest Can you read the courier's name on the jacket?
    finest What's the plate of the getaway car?
    finest Which camera number is in the corner?
    finest What is printed on the parcel?
    finest How many digits of the code did he press?

shipping_warehouse | vqa
    coarse What kind of depot is this?
    coarse Is the warehouse operating normally?
    coarse Is it a high-bay store or a small stockroom?
    coarse How full is the hall overall?
    coarse Does the working environment look modern?
    coarse Is it the night shift?
    medium What is the forklift carrying?
    medium Which shelf is empty?
    medium Is a worker in the robot's path?
    medium How many pallets are waiting at the dock?
    medium Is the {colour} box on top of the brown one?
    medium What is blocking the conveyor belt?
    fine Is the shrink wrap torn?
    fine Is the corner of the carton crushed?
    fine Is the pallet's plank broken?
    fine Is the fork raised?
    fine Which colour is the strap around the crate?
    fine Is the lid of the container sealed?
    finest Scan the label: what is the destination code?
    finest How many units are in the box, says the print?
    finest What's the bay number above the shelf?
    finest What maximum load is written on the rack?
    finest What is the order number on the slip?
    finest Read out the digits under the barcode.

aerial | vqa
    coarse What type of region was flown over?
    coarse Is this coastline natural or built up?
    coarse Was the picture taken from a plane or from orbit?
    coarse Has the forest been cleared on a large scale?
    coarse Is the flood receding?
    coarse Characterise the settlement pattern.
    medium Where is the runway?
    medium Is there a bridge over the river?
    medium How many ships are in the bay?
    medium Which building is next to the stadium?
    medium Are there swimming pools behind the houses?
    medium Does the road run along the canal?
    fine What shape is the lake?
    fine Is the roof of the hangar damaged?
    fine Are the solar panels tilted to the south?
    fine Which colour are the stadium's seats?
    fine Is the river brown with mud?
    fine Are the field's furrows straight or curved?
    finest What number is painted on the runway?
    finest How many tiny cars are in the far corner of the lot?
    finest What coordinates are given in the margin?
    finest How many tents can you count on the site?
    finest What's written in the field in huge letters?
    finest How many metres does the scale bar stand for?

space | vqa
    coarse What sort of celestial scene is this?
    coarse Is it an actual photo or an artist's impression?
    coarse What does the picture tell us about the universe?
    coarse Does the landscape look like Mars or the Moon?
    coarse Was this captured by a telescope or from a spacecraft?
    coarse What is the picture's sense of scale like?
    medium Where is the planet in relation to its moon?
    medium Is a comet among the stars?
    medium What is the astronaut holding on to?
    medium How many galaxies can be recognised?
    medium What is docked at the station?
    medium Is the rover near the crater?
    fine What colour is the nebula's rim?
    fine Does the planet have rings?
    fine Is the solar panel unfolded?
    fine Is the crater's edge sharp?
    fine Is the astronaut's visor up?
    fine How does the surface of the moon look near the pole?
    finest What is the name patch on the suit?
    finest Which mission number is on the badge?
    finest How many small craters lie inside the big one?
    finest What exposure time is given?
    finest How many tiny stars make up the cluster?
    finest What does the countdown show?

dentistry_and_skin | medical
    coarse What kind of clinical picture is this?
    coarse Is this a before or an after picture of the treatment?
    coarse Is the photo of the mouth or of the foot?
    coarse Does the overall finding look harmless?
    coarse Summarise the clinical photo.
    coarse Which medical specialty would handle this case?
    medium Which tooth is missing?
    medium Is a crown on the molar or on the canine?
    medium Where on the body is the rash?
    medium How many moles are there on the back?
    medium Is the bite mark near the elbow?
    medium Is there a brace on the lower teeth?
    fine Is the gum red and swollen?
    fine Are the margins of the mole blurred?
    fine What colour is the nail bed?
    fine Is the crust dry or oozing?
    fine Is the enamel chipped?
    fine Does the scar stick out above the skin?
    finest How many blisters are there exactly?
    finest How many millimetres does the ruler beside the mole show?
    finest Which shade code is on the tooth sample?
    finest How many tiny vessels cross the spot?
    finest What is the patient's ID on the photo label?
    finest Which number does the dental chart give this tooth?

hospital | medical
    coarse Is this an intensive-care unit or an ordinary ward?
    coarse Is the atmosphere in the ward calm?
    coarse Is the patient being admitted or discharged?
    coarse What kind of medical situation is it?
    coarse Is it a drill or an actual emergency?
    coarse Tell the relatives in general terms what the room is like.
    medium Who is standing at the bedside?
    medium Is the drip on the left of the bed?
    medium What is the nurse preparing?
    medium Is the patient lying or sitting?
    medium Which devices is the patient connected to?
    medium Are there flowers on the bedside table?
    fine Is the bandage soaked through?
    fine Is the cannula taped down properly?
    fine Is the bed rail up?
    fine Are the patient's lips blue?
    fine Does the patient's arm look swollen?
    fine Is the clamp on the tube closed?
    finest What does the drip bag contain, according to its label?
    finest What blood pressure is displayed?
    finest Which bed number is on the board?
    finest What does the note on the drug trolley say?
    finest At how many millilitres per hour is the pump running?
    finest What allergies are noted on the chart?

endoscopy | surgical
    coarse Is this a colonoscopy or a gastroscopy?
    coarse Is the bowel well prepared overall?
    coarse Which segment of the digestive tract are we in?
    coarse Is it the withdrawal phase?
    coarse Is the view good enough for a diagnosis?
    coarse Is the finding as a whole benign?
    medium Is there a polyp behind the fold?
    medium What is the snare placed around?
    medium Where is the opening of the appendix?
    medium How many polyps were found?
    medium Is the biopsy forceps in the picture?
    medium Is a foreign body stuck in the gullet?
    fine Is the mucosa pale or reddened?
    fine Does the tissue bleed where it was touched?
    fine Is the snare closed?
    fine Is the ulcer's edge raised?
    fine Is the vessel pattern of the lining regular?
    fine Is the resection margin clean?
    finest How many clips have been applied to the bleeding site?
    finest What does the overlay in the corner say?
    finest How far in is the scope, by the centimetre marks?
    finest What is the exam date on the screen?
    finest How many tiny erosions are there?
    finest Which still number is it?

eye_and_robot_surgery | surgical
    coarse Is this cataract surgery or a retinal procedure?
    coarse Has the critical part of the operation begun?
    coarse Would you say they are in the suturing phase?
    coarse Is it a robotic or a manual operation?
    coarse How skilled does the performance look overall?
    coarse Name the step that comes after this stage of the surgery.
    medium Which instrument holds the iris?
    medium What is the robot's left arm grasping?
    medium Is the cannula in the eye already?
    medium Where is the needle right now?
    medium Is the third arm idle?
    medium What structure is being pulled upwards?
    fine Is the pupil dilated?
    fine Is the cornea cloudy?
    fine Are the tips of the tweezers curved?
    fine Is the lens implant folded?
    fine Is the suture thread taut?
    fine Is the incision straight?
    finest What machine settings are shown at the bottom?
    finest How many sutures hold the graft?
    finest What dioptre is printed on the lens box?
    finest How many lens fragments are left?
    finest What elapsed time does the recorder show?
    finest How many loops were laid with the thread?

radiology | medical
    coarse Is this study normal for a person of that age?
    coarse Is it an emergency finding?
    coarse Is the image a follow-up or a first scan, from its general look?
    coarse Is the exposure of the film adequate?
    coarse Is it the upper or the lower body?
    coarse What is the scan meant to clarify?
    medium On which side is the rib fracture?
    medium Is the tip of the tube above the carina?
    medium Which vertebra is affected?
    medium Is there free air under the diaphragm?
    medium Is a foreign object lodged in the throat?
    medium Is the mass in front of the kidney?
    fine Is the fracture line transverse or oblique?
    fine Are the borders of the shadow fuzzy?
    fine Is the disc space narrow?
    fine How bright is the lesion compared with muscle?
    fine Is the kidney's contour lobed?
    fine Is the cartilage worn down?
    finest How many millimetres is the nodule, by the caliper?
    finest What is printed in the upper corner of the film?
    finest Which marker, L or R, is on the plate?
    finest How many gallstones are there in the neck of the bladder?
    finest What is the slice position number?
    finest What Hounsfield value is displayed?

office_paperwork | document
    coarse Is that an application or a complaint?
    coarse What does this letter want in general?
    coarse Is it urgent, or can it wait?
    coarse Who would normally send something like this?
    coarse Does the paper look genuine?
    coarse In one sentence: what is the contract about?
    medium Is there a stamp next to the signature?
    medium Where on the page is the table?
    medium Has a photo been attached to the application?
    medium Does the contract contain an annex?
    medium How many sheets are stapled together?
    medium Is the envelope under the letter?
    fine Is the ink blurred?
    fine Is the stamp round or square?
    fine Is the corner of the sheet dog-eared?
    fine Is the signature slanted?
    fine What colour is the letterhead?
    fine Is the tick box empty or crossed?
    finest By when must I reply?
    finest What is the notice period in clause {number}?
    finest How much rent is stated?
    finest Which case number should I quote?
    finest To whom is it addressed?
    finest What was handwritten next to paragraph {number}?

bills_and_shopping | document
    coarse Is it a till slip or a guarantee certificate?
    coarse What sort of purchase is this about?
    coarse Is the bill from a restaurant or a garage?
    coarse Is this a reminder or the first bill?
    coarse What does the paper document, broadly?
    coarse Is it a private or a business expense?
    medium Is there a QR code on the bill?
    medium Where is the logo of the shop?
    medium Did they staple the warranty to the receipt?
    medium How many items are there on the list?
    medium Does the bill include a payment slip?
    medium Is the receipt lying on the card?
    fine Is the print on the slip faded?
    fine Is the receipt torn across the middle?
    fine What colour is the payment slip?
    fine Is there a coffee stain on the bill?
    fine Is the perforated edge intact?
    fine Is the logo printed in colour?
    finest How much VAT was charged?
    finest What did the batteries cost?
    finest On which date did I pay?
    finest Which card, by its last four digits?
    finest How many litres did I fill up?
    finest What is the IBAN of the company?

science_figures | chart
    coarse What is the experiment behind this figure about?
    coarse Do the results look convincing overall?
    coarse Is the relation roughly linear?
    coarse Does the figure show a process or measurements?
    coarse Is the general message that more is better?
    coarse What sort of figure is panel A?
    medium Which curve lies above the others?
    medium Is the control group plotted next to the treated one?
    medium Does the figure have an inset?
    medium How many panels does the figure have?
    medium Which box has the widest spread?
    medium Where do the two lines meet, left or right of the middle?
    fine Are the error bars large?
    fine Is the dashed line grey?
    fine Which symbol marks the outliers?
    fine Is the peak sharp or broad?
    fine What colour scale does the heat map use?
    fine Is the confidence band shaded?
    finest What p value is written above the bars?
    finest What is the y value of the third point?
    finest How many data points lie above the line?
    finest In what unit is the x axis?
    finest What R squared is given?
    finest What does the panel's tiny label say?

business_charts | chart
    coarse Is business going well, on the whole?
    coarse What story do these numbers tell?
    coarse Is the dashboard about sales or about staff?
    coarse Would you call the year a success from this picture?
    coarse Does the diagram explain an organisation or a budget?
    coarse Is demand seasonal?
    medium Which department has the largest share?
    medium Is there a dip between spring and autumn?
    medium Are two series plotted or three?
    medium Which country comes first in the ranking?
    medium Is the forecast shown next to the actual figures?
    medium Does the flow go from marketing to production?
    fine Which colour stands for the forecast?
    fine Is the target line dotted?
    fine Is the arrow in the tile green and pointing up?
    fine Are the columns three-dimensional?
    fine How steep is the last section of the curve?
    fine Is the second slice striped?
    finest What turnover is given for the second quarter?
    finest By how many per cent did costs rise?
    finest What figure stands in the middle of the ring?
    finest What was the profit in 2021?
    finest Which fiscal year is in the title?
    finest What is the smallest percentage in the pie?

phone_and_web | vqa
    coarse Is it a chat or an e-mail programme?
    coarse What is the user trying to get done in this app?
    coarse Is this site trustworthy at first sight?
    coarse Does the interface look outdated?
    coarse Is this a game or a work tool?
    coarse What's the page for, in general?
    medium Where is the log-out button?
    medium Is there a banner above the article?
    medium Which icon is next to the bell?
    medium Is the keyboard open on the screen?
    medium How many tabs are open?
    medium Does the form have a field for the birthday?
    fine Is the save button active?
    fine Which tab is selected?
    fine Is the icon's badge red?
    fine Is the password hidden or visible?
    fine Is the slider in the middle?
    fine Is the picture on the profile round?
    finest What does the toast message say?
    finest How many new mails are there?
    finest What's typed in the address bar?
    finest At what time was the last message sent?
    finest How much storage is left?
    finest What is the order's status text?

maps_and_plans | vqa
    coarse Which part of the world is mapped?
    coarse Is it a tourist map or a technical plan?
    coarse What is the plan's purpose?
    coarse Does the weather map promise a fine weekend?
    coarse Is it an escape plan or a metro network?
    coarse What does the map tell us about the climate?
    medium Is the museum near the station?
    medium Where is north on this plan?
    medium Which room lies opposite the bathroom?
    medium Does the path cross the stream?
    medium Are there two staircases on the plan?
    medium Is the car park in front of the hall?
    fine Is the route drawn in red or blue?
    fine Is the border line dashed?
    fine Which symbol marks the camping site?
    fine What shade does the map use for deep water?
    fine Is the wall on the plan thick or thin?
    fine Does the door in the plan open inwards?
    finest What is the name of the smallest village?
    finest How high is the pass, by the number beside it?
    finest What is the scale at the bottom?
    finest Which line goes to the airport, by its number?
    finest How wide is the bedroom in the plan?
    finest How many stops are there between the two stations?

toys_and_games | vqa
    coarse What age is this playroom meant for?
    coarse Is it a game of luck or of strategy?
    coarse Is the game in its opening or almost over?
    coarse What's the theme of the play set?
    coarse Is this a tournament or a cosy game night?
    coarse Does the playroom look fun?
    medium What is the doll sitting on?
    medium Which piece is on the corner square?
    medium Is the train on the rails or beside them?
    medium Who is holding the cards?
    medium Are the dice in the cup?
    medium How many figures are still in the house?
    fine Is the doll's arm torn off?
    fine What colour are the bricks of the tower's top?
    fine Is the puzzle piece bent?
    fine Is the teddy's eye missing?
    fine Does the toy car have rubber tyres?
    fine Is the card face up?
    finest How many dots do both dice show together?
    finest What does the event card tell me to do?
    finest What is the number of the square I'm on?
    finest How many knobs does the brick have?
    finest How many pieces has the puzzle, according to the box?
    finest Which word did they lay on the board?

jewellery_and_antiques | vqa
    coarse Is this a flea market or an auction house?
    coarse What kind of collection is it?
    coarse Which era do the pieces come from?
    coarse Does the display look precious?
    coarse Is it a private attic or a shop?
    coarse Tell me in general what is being sold.
    medium What is lying in the velvet box?
    medium Is the brooch next to the pocket watch?
    medium Which item is the dealer inspecting?
    medium How many rings are in the tray?
    medium Is there a clock among the antiques?
    medium What stands on the chest of drawers?
    fine Is the clasp of the bracelet broken?
    fine Is the stone cut round or square?
    fine Is the silver tarnished?
    fine Does the porcelain have a hairline?
    fine What are the drawer's knobs made of?
    fine Is the leather binding worn at the corners?
    finest What hallmark is stamped inside the ring?
    finest What is engraved on the back of the watch?
    finest How many tiny stones surround the large one?
    finest What maker's mark is on the bottom?
    finest Which lot number is on the tag?
    finest How many carats does the stamp give?

sewing_and_craft | vqa
    coarse What craft is this?
    coarse Is the piece finished or still in the making?
    coarse Is it for a costume or for everyday use?
    coarse Does it look home-made?
    coarse What style would you call this quilt?
    coarse Which step of the pattern instructions is shown?
    medium What is lying next to the sewing machine?
    medium Where are the scissors?
    medium Is the thread in the basket?
    medium Which tool is she holding, a hook or a needle?
    medium How many balls of wool are there?
    medium Is the cloth under the ruler?
    fine Is the seam straight?
    fine What colour is the thread?
    fine Are the edges hemmed?
    fine Has the yarn split?
    fine Is the stitch loose or tight?
    fine Is the lining puckered?
    finest How many stitches are on the needle?
    finest What needle size is printed on it?
    finest How many rows have been knitted?
    finest How many cross stitches make up the nose?
    finest What does the pattern sheet say about seam allowance?
    finest What stitch length is the dial set to?

home_repair | vqa
    coarse What job is being done in the flat?
    coarse Is this before or after the renovation?
    coarse Is the damage a matter for a professional, all in all?
    coarse Does the bathroom look new?
    coarse What is the state of the whole building site?
    coarse Describe the problem area in general.
    medium Is there a valve under the sink?
    medium Where does the pipe go through the wall?
    medium What is the plumber holding?
    medium Which appliance is leaking?
    medium Is the ladder next to the switchboard?
    medium Are the tiles stacked by the tub?
    fine Is the seal cracked?
    fine Is the pipe's joint rusty?
    fine Has the plaster come off around the socket?
    fine Is the switch in the up or down position?
    fine Is the tile's edge chipped?
    fine Is the wallpaper peeling at the seam?
    finest What is the model number on the boiler?
    finest What pressure does the boiler gauge indicate?
    finest Which fuse is labelled 'kitchen'?
    finest What fault code is blinking?
    finest How many tiny cracks are in the basin?
    finest What diameter is printed on the pipe?

city_sights | vqa
    coarse Which famous city could that be?
    coarse Is this the old quarter or a new district?
    coarse What charm does the square have?
    coarse Is the town preparing for a festival?
    coarse Is it early in the morning in this city, before the tourists come?
    coarse Describe the skyline.
    medium Is the fountain in front of the town hall?
    medium What is on top of the column?
    medium Are people sitting on the steps?
    medium Who is the street artist drawing?
    medium Which monument is left of the cathedral?
    medium How many horse carriages are waiting?
    fine Are the balconies decorated?
    fine Is the statue's sword broken?
    fine Which colour is the dome?
    fine Is the plaster of the old wall crumbling?
    fine Are the shutters of the third house green?
    fine Is the church door carved?
    finest What is chiselled into the parapet of the bridge?
    finest What are the opening times on the door?
    finest What does the street artist's cardboard sign say?
    finest How many coins lie in the hat?
    finest Which year is set into the gable?
    finest Which number does the house with the red door have?

people_portraits | vqa
    coarse Is it a candid shot or a posed portrait?
    coarse What impression does the portrait leave?
    coarse What might the photographer want to express?
    coarse Is the portrait intimate or distant?
    coarse For which magazine could this have been shot?
    coarse Is it a passport picture or a publicity photo?
    medium Who is standing behind the chair?
    medium What does she carry over the shoulder?
    medium Is another person reflected in the mirror?
    medium Is he leaning on the wall?
    medium What is the couple sitting on?
    medium Which of the brothers wears a hat?
    fine Does he have dimples?
    fine Are her lips parted?
    fine Is one eyebrow raised?
    fine Is the man's jaw shaved?
    fine How are her hands folded?
    fine Does he have bags under the eyes?
    finest What does the pin on her lapel read?
    finest How many rings is he wearing on the right hand?
    finest What's written on his mug?
    finest How many strands of pearls are around her neck?
    finest What is the credit in the corner?
    finest What time is on his wristwatch?

everyday_help | vqa
    coarse I'm lost and can't see. What kind of place am I in?
    coarse Is it already light outside?
    coarse Am I in the right building, a bank?
    coarse Does my room look tidy enough for guests?
    coarse What is around me in general?
    coarse Is the path ahead quiet?
    medium Is the chair free?
    medium Is there a step in front of me?
    medium Where did I put the remote?
    medium Which of these is my walking stick?
    medium Who is at the door?
    medium What's in this drawer?
    fine Do my socks match?
    fine Is my shirt stained?
    fine Is the stove off?
    fine Has the milk gone off, does it look lumpy?
    fine Is my collar folded properly?
    fine What colour is this jumper?
    finest Which bus is that?
    finest What flavour is this soup, by the tin?
    finest What temperature is the heating set to?
    finest Which banknote am I holding?
    finest What floor does the lift show?
    finest When does this milk go off, by the date?

video_and_robotics | vqa
    coarse What is the video clip about?
    coarse Is the household robot in a kitchen or a bedroom?
    coarse Has the task been completed as a whole?
    coarse What phase of the assembly does the frame show?
    coarse Is the clip sped up?
    coarse Describe the episode in a sentence.
    medium Which object should the gripper pick up next?
    medium Is the cube inside the bowl?
    medium Is there an obstacle between the robot and the door?
    medium What did the person put down?
    medium Is the drawer handle within reach to the left of the arm?
    medium Which block is on top?
    fine Is the gripper open?
    fine Is the drawer fully closed?
    fine Is the cup upside down?
    fine Is the lid screwed tight?
    fine Is the wheel of the robot stuck?
    fine Which face of the cube is up, by its colour?
    finest What does the robot's display read?
    finest What is the marker's ID number?
    finest How many screws are in the tray?
    finest At what frame number are we?
    finest What battery voltage is shown?
    finest What is the label on the button it should press?

chatty_travel | vqa
    coarse We can't agree whether this was the Sunday or the stormy Monday of our trip. What does the weather tell you?
    coarse My partner says it looks like a film set. Does the place strike you as real?
    coarse I'd like to put this in the album under a heading. Any ideas?
    coarse Trying to remember where on earth I was here. Any clue about the region?
    coarse Is that a touristy spot or somewhere off the beaten track?
    coarse Honestly, does this place look worth the detour?
    medium Someone photobombed us. Where in the frame is he?
    medium I left my rucksack somewhere at this viewpoint. Is it on the bench or by the railing?
    medium Who's missing from our group here?
    medium Did the guide already get off the bus?
    medium What on earth is that man dragging along the pier?
    medium Which of us is sitting closest to the campfire?
    fine Did I already have that awful sunburn on my nose?
    fine Had the tent's zip already come apart that day?
    fine What was the glaze on those tiles we liked so much, shiny or dull?
    fine My hat looks odd here. Is the brim folded up?
    fine Were the shutters of our cottage blue or more of a green?
    fine Is my camera strap twisted?
    finest I forgot what the hostel was called. It's on the sign, isn't it?
    finest How much did they charge for a coffee? The board is in the picture.
    finest We need the kilometre figure on that milestone.
    finest What was the number of our cabin? It's on the door.
    finest Can you make out which date the ticket inspector stamped?
    finest Somebody scratched their initials into the rock. Which?

chatty_home | vqa
    coarse My flatmate says the room looks like a cave. What impression does it make on you?
    coarse Does it look as if a party took place?
    coarse If you came in here for the first time, how would it strike you?
    coarse Would you say it's cosy in there or rather cold and bare?
    coarse My landlord wants a general description of the flat's condition from this.
    coarse What sort of lifestyle does this living room suggest?
    medium I've been hunting for the scissors all day. Any sign of them?
    medium What has the cat knocked over this time?
    medium Did the movers forget the bookcase?
    medium What's that thing poking out from behind the sofa?
    medium Whose bike is in the hallway, and what is it leaning on?
    medium Did they deliver the washing machine or the dryer?
    fine Did my houseplant get any new leaves?
    fine Has the dye washed out of this jumper?
    fine Are the legs of the new table really oak?
    fine Did I forget to turn the hob off?
    fine My son says the kettle's lid doesn't shut. Can you see why?
    fine Is the strap of the bag starting to come off?
    finest How many units did we use? The photo shows the meter.
    finest The remote has lost its label. Which symbol is on the green button?
    finest I took a picture of the router: what's the default key?
    finest Tell me how many screws came in this bag.
    finest What did the neighbour write on the slip that was stuck to our door?
    finest To what temperature did I set the freezer?

work_site | vqa
    coarse Is the working day over here, or is everybody at it?
    coarse How far has the whole building progressed?
    coarse For the site diary: conditions today?
    coarse Does the site make an orderly impression?
    coarse Roughly what is being built?
    coarse Is it a renovation, a demolition or new construction?
    medium Are the scaffolders wearing their harnesses, and where are they?
    medium What is the digger scooping up?
    medium Which beam is resting on the column?
    medium Is there any material stored under the stairs?
    medium Who is standing below the hanging load?
    medium How many workers are without a helmet?
    fine Is the guard rail bolted on?
    fine Is the concrete still wet?
    fine Does the rope show wear?
    fine Is the ladder's foot standing level?
    fine Is the rebar bent?
    fine Is the strap of his helmet under the chin?
    finest What load is the crane rated for, by its plate?
    finest Which permit number hangs on the fence?
    finest What height is pencilled on the wall?
    finest How many bolts hold the flange?
    finest What does the spirit level's bubble say, left or right of the lines?
    finest Read the delivery note for the cement.

inspection | vqa
    coarse Does the plant run normally?
    coarse What type of facility is under inspection?
    coarse Is the overall housekeeping acceptable?
    coarse Would this hall pass a first-glance audit?
    coarse Is it a routine picture or does it document an incident?
    coarse Report the general condition in a sentence.
    medium Is any part missing from the assembly?
    medium Which of the bottles on the line has fallen over?
    medium Is a foreign object on the conveyor?
    medium Where on the board is the missing component?
    medium Is the extinguisher hanging next to the exit?
    medium How many defective items are in the tray?
    fine Is the seam of this can tight?
    fine Does the coating show bubbles?
    fine Is the thread of the bolt stripped?
    fine Is there a burr along the cut edge?
    fine Is the print on the blister smeared?
    fine Is the gasket squeezed out on one side?
    finest What lot code is on the cap?
    finest Does the date code match the one on the case?
    finest What does the pointer of the dial say?
    finest How many pinholes are in the foil?
    finest How many scratches shorter than a millimetre are there?
    finest What torque value is on the sticker?

quoted_words | vqa
    coarse If you had to finish the sentence "This is a picture of ...", what would you put?
    coarse Does "calm before the storm" describe the scene?
    coarse Would you file it under "street life" or "still life"?
    coarse Which fits better overall: "abandoned" or "bustling"?
    coarse True or false: "This is a scene from everyday life in a big city."
    coarse A user searches for "winter wonderland". Should this come up?
    medium True or false: "The man is sitting on the wall."
    medium Does "a dog jumping over a fence" match what is seen?
    medium Is the statement "there are three chairs around the table" right?
    medium Complete: "The cup is standing on the ..."
    medium Which caption is right: "a girl pushes a swing" or "a girl sits on a swing"?
    medium The caption says "two ducks on a pond". Are they ducks?
    fine True or false: "The woman's coat is buttoned."
    fine Does "a chipped blue cup" describe it correctly?
    fine Complete: "The roof of the hut is made of ..."
    fine Which is right: "the boy's hair is curly" or "the boy's hair is straight"?
    fine The seller claims "like new". Do you see wear on the edges?
    fine Is "grinning from ear to ear" right for his face?
    finest Is it "affect" or "effect" in the second line?
    finest True or false: "The clock reads half past four."
    finest Does the bottle say "still" or "sparkling"?
    finest Complete the slogan: "Just ..."
    finest Is there the word "free" anywhere in the small letters?
    finest The caption says "price: 12". Does that match the tag?

hands_and_faces | vqa
    coarse Is it a picture of joy or of grief, on the whole?
    coarse What is the social setting of these people?
    coarse What kind of relationship does the photo suggest in general?
    coarse Does the crowd's mood seem to be turning?
    coarse Is it a portrait session or a documentary moment?
    coarse What human theme does it express?
    medium Whom is she hugging?
    medium Who is whispering to whom?
    medium Is the girl pulling the boy along?
    medium What are the two shaking hands in front of?
    medium Which child is hiding behind the mother?
    medium What did he just drop?
    fine Are her fingers crossed?
    fine Is his palm open or closed?
    fine Is he frowning or squinting?
    fine Is the thumb pointing up?
    fine Are the dancer's toes pointed?
    fine Are both of his arms raised above the head?
    finest Which letter is she signing with her hand?
    finest What number is written on the back of his hand?
    finest How many lines cross the palm?
    finest How many eyelets does his boot have?
    finest What is the tiny word tattooed behind her ear?
    finest What does the ring's engraving say?

visual_prompts | vqa
    coarse Ignoring the boxes that I drew, what is the scene?
    coarse What do all the numbered photos have in common in their setting?
    coarse Which of images 1 to 4 was taken at night?
    coarse Image A and image B: which of the two is more peaceful?
    coarse What would the whole picture be about if the masked part were gone?
    coarse Which frame of the sequence starts a new scene?
    medium What is object 3 in the numbered picture?
    medium Which box holds the pedestrian, A or B?
    medium Is the thing under the blue dot a bench?
    medium What does box 2 stand on?
    medium Name what is inside the yellow rectangle.
    medium Is the item at point (312, 88) a cup?
    fine In the outlined region, is the surface scratched?
    fine What material is at the red dot?
    fine Which colour is the item in box 4?
    fine Is the door in the circled area open?
    fine What texture does the masked area have?
    fine Crop A shows the same jacket as crop B: do their collars differ?
    finest What is written inside the green rectangle?
    finest Read the characters in the crop.
    finest Which digit is under the arrow?
    finest How many dots lie within the tiny square?
    finest What is the text at [120, 44, 310, 70]?
    finest The masked word in the line: what is it?

science_class | document
    coarse Does the diagram explain a cycle, a structure or a comparison?
    coarse What subject is this textbook page from?
    coarse Which natural phenomenon is depicted?
    coarse What concept is being taught by the drawing?
    coarse Is the experiment about light or about sound?
    coarse What would be a good heading for this diagram?
    medium Which planet lies between Earth and Jupiter in the drawing?
    medium What does the arrow from the plant lead to?
    medium What do the rabbits eat in this food web?
    medium Which organ does label C point to?
    medium Is the magnet above the coil?
    medium How many bulbs are wired in series?
    fine What shape is the crystal?
    fine Is the leaf's edge lobed?
    fine Is the circuit's switch closed?
    fine Which colour does the flame have?
    fine Is the cell's membrane thick or thin?
    fine Is the spring stretched?
    finest What mass is written on the block?
    finest How many electrons are drawn on the outer shell?
    finest Which angle is given at vertex B?
    finest What is the value of the resistor in the circuit?
    finest How many chromosomes are in the drawn nucleus?
    finest What is the formula beside the beaker?

gardens_and_weather_reports | vqa
    coarse Was there a frost last night, going by the look of everything?
    coarse What will the weather probably do in the next hour?
    coarse Is it a heatwave?
    coarse Is the light that of the golden hour?
    coarse How does the landscape look after the storm?
    coarse Are we in the wet season?
    medium What did the wind blow over?
    medium Has the tree come down on the shed?
    medium Is the snowplough ahead of the cars?
    medium Who is sheltering under the awning?
    medium What is floating in the flooded street?
    medium Is there a rainbow behind the hill?
    fine Is the car's roof covered in hail dents?
    fine Is the icicle dripping?
    fine Are the clouds at the horizon flat or towering?
    fine Is the umbrella turned inside out?
    fine How deep is the snow on the handrail?
    fine Is the ice on the puddle cracked?
    finest How many millimetres fell, by the gauge?
    finest What's the wind speed on the display?
    finest How many degrees are forecast for Tuesday?
    finest How many hailstones lie on the lid?
    finest What is the name of the storm in the headline?
    finest Which warning level does the text give?

shopping_online | vqa
    coarse Is this a product photo or one from a customer?
    coarse What target group is the shop after?
    coarse What would be the product category?
    coarse Does the listing look serious?
    coarse Is the product shown in use or on its own?
    coarse Which lifestyle does the advert sell?
    medium What comes with the camera in the box?
    medium Is the charger included in the picture?
    medium Which product is shown on the second photo?
    medium How many pieces does the set have?
    medium Is the jar next to something that shows its size?
    medium Does the model hold the bag or wear it?
    fine Does the phone have a scratch near the lens?
    fine Is the lid made of bamboo?
    fine What kind of closure does the purse have?
    fine Is the seat padded?
    fine Do the trousers taper at the ankle?
    fine Are the handles stitched or riveted?
    finest What size is given in the label's second line?
    finest How many stars and reviews does the listing show?
    finest What is the article number?
    finest What wattage is on the underside?
    finest How much is postage?
    finest How many holes does the belt have?

games_and_puzzles | vqa
    coarse What is the hidden theme of this picture puzzle?
    coarse Is the riddle meant for kids?
    coarse What kind of puzzle is it?
    coarse Is the optical illusion about movement or depth?
    coarse Solve the rebus in general: which proverb is illustrated?
    coarse What genre is the video game?
    medium Where is the key hidden in the search picture?
    medium Which character is standing on the bridge?
    medium Is the exit of the maze on the left?
    medium Which piece fills the gap?
    medium Is the player behind the enemy?
    medium What is the avatar carrying?
    fine Which of the shapes has a notch?
    fine Does the second figure have a longer tail?
    fine Is the shaded area a triangle?
    fine What colour is the missing tile?
    fine Is the treasure chest open?
    fine Is the shield of the knight round?
    finest How many squares can be counted in the figure?
    finest What number completes the grid?
    finest How many matches form the figure?
    finest What score is at the top of the game screen?
    finest How many hearts are left in the life bar?
    finest What does the clue for 7 down say?

wildlife_research | vqa
    coarse Which biome was the camera trap set up in?
    coarse Was the trap triggered at night?
    coarse Is the reef healthy as a whole?
    coarse Is it mating season, judging by the scene?
    coarse Does the picture suggest human influence on the habitat?
    coarse Label the frame: empty, wildlife or human?
    medium Which species triggered the camera?
    medium How many adults are in the pack?
    medium Is the calf beside its mother?
    medium What is the otter eating?
    medium Is the diver close to the shark?
    medium Which individual is leading the herd?
    fine Is the elephant's left tusk broken?
    fine Does the leopard's flank show rosettes or plain fur?
    fine Is the whale's fluke notched?
    fine Is the coral bleached?
    fine Is the turtle's shell overgrown with algae?
    fine Is the antler still in velvet?
    finest What code is on the collar?
    finest What temperature does the trap's info bar give?
    finest How many barnacles sit on the fluke?
    finest How many rings does the horn have?
    finest How many scales lie between the eye and the nostril?
    finest What is the tag number on the fin?

money_and_law | document
    coarse Is that a court drawing or a photograph?
    coarse Is it a will, a lease or a loan agreement in general?
    coarse What is this leaflet trying to warn people of?
    coarse Is the certificate a serious one or a joke?
    coarse Does the letter sound friendly or threatening?
    coarse What's the point of this notice, in short?
    medium Has the notary put a seal on it?
    medium Is there a second signature under the first?
    medium Where on the banknote is the portrait?
    medium Are the pages bound or loose?
    medium Is there a photo on the ID?
    medium Which piece of evidence is in the bag?
    fine Is the wax seal broken?
    fine Is the banknote torn at a corner?
    fine Has the ink run?
    fine Is the hologram shiny or dull?
    fine Is the photo in the passport in colour?
    fine Does the signature slope to the right?
    finest Up to what sum am I insured?
    finest When does the lease end?
    finest What's the name of the judge on the form?
    finest What are the last four characters of the card?
    finest What does clause 3 say about pets?
    finest What interest rate is given?

driving_and_navigation | vqa
    coarse What kind of road lies ahead?
    coarse Is visibility fine?
    coarse Am I driving into a village or out of one?
    coarse Is it a toll station or a border crossing?
    coarse What is the overall risk right now?
    coarse Is it dusk on this road?
    medium Is the car in front braking for a pedestrian?
    medium Is the lane next to me free?
    medium Which vehicle will reach the junction first?
    medium What is lying on the carriageway?
    medium Is the tram to the left of the cyclist?
    medium Where is the pedestrian going to cross?
    fine Is the lorry's tailgate hanging open?
    fine Are the stripes of the crossing worn away?
    fine Is the barrier up or down?
    fine Is the arrow of the light green?
    fine Has the front wheel of the bike turned towards me?
    fine Is the windscreen fogged up?
    finest What speed is displayed in red?
    finest In how many metres do I turn, says the screen?
    finest What's the name of the next exit?
    finest What weight limit is posted at the bridge?
    finest What is the fuel price today?
    finest At what time will I arrive, by the display?
"""


class Family(NamedTuple):
    name: str
    level: int
    task: str
    weights: tuple[float, ...]
    domain: str
    phrasings: list[str]


def parse_families() -> list[Family]:
    families = []
    for level, text in enumerate(FAMILIES.values()):
        for block in text.strip().split("\n\n"):
            header, *phrasings = (line.strip() for line in block.split("\n"))
            name, task, percents, *domain = (field.strip() for field in header.split("|"))
            weights = tuple(int(percent) / 100 for percent in percents.split())
            families.append(Family(name, level, task, weights, "".join(domain), phrasings))
    for block in DOMAINS.strip().split("\n\n"):
        header, *lines = (line.strip() for line in block.split("\n"))
        name, task = (field.strip() for field in header.split("|"))
        for level, level_name in enumerate(LEVELS):
            phrasings = [line.removeprefix(f"{level_name} ") for line in lines if line.startswith(f"{level_name} ")]
            families.append(Family(f"{name}/{level_name}", level, task, DOMAIN_WEIGHTS[level], "", phrasings))
    for family in families:
        is_sound = len(family.weights) == len(LEVELS) and abs(sum(family.weights) - 1) < 1e-9
        if not is_sound or family.weights.index(max(family.weights)) != family.level or not family.phrasings:
            raise ValueError(f"Family `{family.name}`, {LEVELS[family.level]}: {family.weights}, {family.phrasings}.")
    return families


# ---------------------------------------------------------------------------------------------------------------------
# Dress: everything below is drawn without looking at the level (but an aside names a level that is not asked for).

QUESTION_WORDS = words(
    """what, what's, which, who, whose, whom, where, when, why, how, is, are, was, were, do, does, did, has, have, can,
    could, would, will, should, may, am, in, at, to, on, with, of, by, between, up, until, as"""
)
YES_NO_WORDS = words("is, are, was, were, do, does, did, has, have, can, could, would, will, should, may, am")

CONTEXTS = {
    "": [
        "I'm writing a blog post.", "My sister sent me this.", "This is from our last trip.",
        "I am visually impaired.", "We are preparing a quiz.", "Look at this picture.",
        "I took this with my phone.", "I need this for homework.", "Here is an image from the internet.",
        "Have a look at the attachment.", "I have a question about this picture.",
        "You are a helpful assistant that answers questions about images.", "We argued about this at dinner.",
        "This is one of forty pictures that I have to go through today.", "I found this in an old drawer.",
        "<image>", "My boss wants an answer within the hour, and I cannot open the file properly on my phone.",
        "Good morning!", "My daughter keeps asking me questions about this one, so please help me out.",
        "Hi there,", "Sorry to bother you.", "The picture is small, but I hope that it is good enough.",
        "You are shown one image.", "Consider the image below.",
        "I'm learning English and I describe pictures for practice.", "This came in this morning.",
        "Help me out here.",
    ],
    "surgery": [
        "This frame comes from a surgical video.", "We are reviewing a laparoscopy.",
        "You are assisting in theatre.", "The recording was made during a training session for residents.",
        "The patient is 54 years old.", "You are an expert in minimally invasive surgery.",
        "The image was taken by the endoscope camera.",
    ],
    "medical": [
        "The patient is a 61-year-old man with a cough.", "I am a radiology resident.",
        "This is not for diagnosis.", "A patient came in after a fall.", "You are a medical imaging assistant.",
        "The scan was done yesterday.",
    ],
    "document": [
        "I scanned this at the office.", "My landlord sent me this.", "This came in the post today.",
        "It's for my tax adviser.", "You are given a page.", "I am sorting my papers.",
    ],
    "chart": [
        "This figure is from the annual report.", "The plot is taken from a paper.", "You are a data analyst.",
        "Our team discussed this in the meeting.", "The figure was made with our own numbers.",
    ],
    "screen": [
        "This is a screenshot.", "My computer shows this.", "You control a browser.", "The app looks strange.",
    ],
    "street": [
        "I am driving.", "This is the dashboard camera.", "You are a self-driving car.", "I'm at the corner.",
    ],
}  # fmt: skip
# What the question does *not* want, by level: an aside names a level other than the asked one.
ASIDES = [
    [
        "I know where this was taken.", "The place itself doesn't matter.", "Don't bother about the atmosphere.",
        "Skip the general description.", "I know what kind of picture this is.",
    ],
    [
        "I can see what objects are there.", "Forget the other things around.", "You needn't list the objects.",
        "Never mind who else is in it.", "I already counted the people.",
    ],
    [
        "Ignore the colours.", "I don't care what it is made of.", "Never mind the little scratches.",
        "The condition of it doesn't matter.", "Small details don't interest me.",
    ],
    [
        "You needn't read the text.", "Ignore the small print.", "I can read the numbers myself.",
        "The writing in it is irrelevant.", "Never mind the label.",
    ],
]  # fmt: skip
LEADS = {
    True: [
        "In this picture, {}", "In the image, {}", "Tell me: {}", "Q: {}", "Question: {}", "Quick question: {}",
        "Looking at this, {}", "Please tell me, {}", "Just wondering, {}", "Based on the image, {}", "And {}",
        "So {}",
    ],
    False: [
        "Please {}", "Can you {}", "Could you {}", "Kindly {}", "I want you to {}", "Your task: {}", "Now {}",
    ],
}  # fmt: skip
ENDINGS = {
    "yes_no": [
        "Answer yes or no.", "Yes or no?", "Please answer with yes or no.", "Explain why.", "How sure are you?",
    ],
    "question": [
        "Answer with a single word.", "Answer the question using a single word or phrase.", "Be brief.",
        "Short answer.", "Answer in one sentence.", "Just the answer, please.", "Explain your answer.",
        "Think step by step.", "Why?", "If you cannot tell, say so.", "Give reasons.",
    ],
    "order": [
        "Keep it short.", "One sentence is enough.", "Be precise.", "Use plain English.", "No extra comments.",
        "Write in full sentences.", "Take your time.", "At most 30 words.",
    ],
    "any": [
        "Thanks!", "Thank you in advance.", "Please be honest.", "I'd be grateful.", "It's urgent.", "Answer:",
        "I can't tell.", "It would help me a lot.",
    ],
}  # fmt: skip


def add_choices(question: str, slot: str, rng: random.Random) -> str:
    options = rng.sample(SLOTS[slot], 4)
    style = rng.randrange(4)
    if style == 0:
        return question + "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))
    if style == 1:
        return f"{question} Options: {', '.join(options)}."
    if style == 2:
        listed = " ".join(f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=False))
        return f"{question} {listed} Answer with the option's letter."
    return f"{question} {', '.join(options[:-1])} or {options[-1]}?"


def misspell(text: str, rng: random.Random) -> str:
    """Swap two inner letters of one long word, or drop one."""
    long_words = list(re.finditer(r"[a-z]{5,}", text))
    if not long_words:
        return text
    match = rng.choice(long_words)
    i = rng.randrange(match.start() + 1, match.end() - 2)
    return text[:i] + (text[i + 1] + text[i] if rng.random() < 0.5 else text[i]) + text[i + 2 :]


def dress(question: str, family: Family, choices: str, rng: random.Random) -> str:
    first = question.split()[0].lower().strip(",")
    is_question = question.rstrip().endswith("?") or first in QUESTION_WORDS
    kind = "order" if not is_question else "yes_no" if first in YES_NO_WORDS and " or " not in question else "question"
    if choices and rng.random() < 0.3:
        question = add_choices(question, choices, rng)
    elif rng.random() < 0.16 and not re.search(r"[.?:,] ", question):
        lead = rng.choice(LEADS[is_question])
        is_name = re.match(r"I\b|[A-Z]{2}", question)
        question = lead.format(question if is_name else question[0].lower() + question[1:])
        if lead.startswith("C"):
            question = question.rstrip(".") + "?"
    if rng.random() < 0.16:
        question = f"{question} {rng.choice(ENDINGS[kind] if rng.random() < 0.75 else ENDINGS['any'])}"
    if rng.random() < 0.14:
        domain = family.domain if family.domain and rng.random() < 0.7 else ""
        question = f"{rng.choice(CONTEXTS[domain])} {question}"
    elif rng.random() < 0.05:
        other = rng.choice([level for level in range(len(LEVELS)) if level != family.level])
        aside = rng.choice(ASIDES[other])
        question = f"{aside} {question}" if rng.random() < 0.7 else f"{question} {aside}"
    if rng.random() < 0.05:
        question = misspell(question, rng)
    if rng.random() < 0.07:
        question = question.lower()
    if rng.random() < 0.06:
        question = question.rstrip("?.! ")
    return question


# ---------------------------------------------------------------------------------------------------------------------
# Build


def normalise(question: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", question.lower()))


def resembles(question: str, others: list[set[str]]) -> bool:
    """More than 0.7 of the words that either has are in both (the corpus promises at most 0.8)."""
    own = set(normalise(question))
    return any(len(own & other) > 0.7 * len(own | other) for other in others)


def split_families(families: list[Family], rng: random.Random) -> dict[str, str]:
    """Family -> train or dev: the same share of each level, and the four families of a domain go the same way."""
    groups = defaultdict(list)
    for name in dict.fromkeys(family.name.split("/")[0] for family in families):
        levels = [family.level for family in families if family.name.split("/")[0] == name]
        groups[tuple(levels)].append(name)
    dev = {name for names in groups.values() for name in rng.sample(names, round(DEV_SHARE * len(names)))}
    return {family.name: "dev" if family.name.split("/")[0] in dev else "train" for family in families}


def build() -> list[dict]:
    families = parse_families()
    if len({family.name for family in families}) < len(families):
        raise ValueError(f"Two families share a name: {Counter(family.name for family in families).most_common(1)}.")
    split = split_families(families, random.Random(SEED))
    heldout = [set(normalise(json.loads(line)["question"])) for line in HELDOUT.read_text("utf-8").splitlines()]
    seen, records = set(), []
    for level in range(len(LEVELS)):
        own = [family for family in families if family.level == level]
        taken: Counter = Counter()
        # round robin over the families, so that each gets as many questions as the others until it runs dry
        for turn in range(10 * QUESTIONS_PER_LEVEL):
            if taken.total() == QUESTIONS_PER_LEVEL:
                break
            family = own[turn % len(own)]
            rng = random.Random(f"{SEED}/{family.name}/{turn // len(own)}")
            phrasing = family.phrasings[turn // len(own) % len(family.phrasings)]
            phrasing, choices = re.fullmatch(r"(.*?)(?: \[([a-z]+)\])?", phrasing).groups("")
            plain = phrasing.format_map(Filler(rng))
            plain = plain[0].upper() + plain[1:] if rng.random() < 0.97 else plain
            question = dress(plain, family, choices, rng)
            tokens = normalise(question)
            if tokens in seen or resembles(plain, heldout) or resembles(question, heldout):
                continue
            seen.add(tokens)
            taken[family.name] += 1
            records.append(
                {
                    "question": question,
                    "weights": family.weights,
                    "family": family.name,
                    "task": family.task,
                    "split": split[family.name],
                }
            )
    return records


# ---------------------------------------------------------------------------------------------------------------------
# Report: what do shortcuts know?


def level_of(record: dict) -> int:
    return record["weights"].index(max(record["weights"]))


def shortcut_accuracy(records: list[dict], cue: Callable[[dict], object]) -> float:
    """Accuracy on the dev families of guessing the level most frequent in the train families for a value of `cue`."""
    votes: defaultdict[object, Counter] = defaultdict(Counter)
    overall: Counter = Counter()
    for record in records:
        if record["split"] == "train":
            votes[cue(record)][level_of(record)] += 1
            overall[level_of(record)] += 1
    dev = [record for record in records if record["split"] == "dev"]
    guesses = [(votes.get(cue(record)) or overall).most_common(1)[0][0] for record in dev]
    return sum(guess == level_of(record) for guess, record in zip(guesses, dev, strict=True)) / len(dev)


def report(records: list[dict]) -> str:
    lines = [f"{len(records)} questions, {len({record['family'] for record in records})} families"]
    for key, cue in (("split", lambda r: r["split"]), ("task", lambda r: r["task"])):
        table = Counter((cue(record), level_of(record)) for record in records)
        lines.append(f"{key:12s} " + " ".join(f"{level:>7s}" for level in LEVELS))
        for value in sorted({value for value, _ in table}):
            lines.append(f"{value:12s} " + " ".join(f"{table[value, level]:7d}" for level in range(len(LEVELS))))
    table = Counter((normalise(record["question"])[0], level_of(record)) for record in records)
    lines.append("first word   " + " ".join(f"{level:>7s}" for level in LEVELS))
    for word, _ in Counter(normalise(record["question"])[0] for record in records).most_common(14):
        lines.append(f"{word:12s} " + " ".join(f"{table[word, level]:7d}" for level in range(len(LEVELS))))
    by_level = [
        sorted(len(normalise(record["question"])) for record in records if level_of(record) == level)
        for level in range(len(LEVELS))
    ]
    medians = ", ".join(f"{name} {own[len(own) // 2]}" for name, own in zip(LEVELS, by_level, strict=True))
    lines.append(f"median length in words: {medians}")
    share = {
        "length alone": shortcut_accuracy(records, lambda r: min(len(normalise(r["question"])), 30) // 2),
        "first word alone": shortcut_accuracy(records, lambda r: normalise(r["question"])[0]),
        "first two words": shortcut_accuracy(records, lambda r: normalise(r["question"])[:2]),
    }
    lines += [f"{name} predicts {value:.1%} of the dev levels (chance 25 %)" for name, value in share.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the corpus on disk differs")
    arguments = parser.parse_args(argv)
    records = build()
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    print(report(records))
    if arguments.check:
        is_current = OUTPUT.exists() and OUTPUT.read_text("utf-8") == text
        print(f"{OUTPUT.name} is {'up to date' if is_current else 'out of date: run this script without --check'}")
        return 0 if is_current else 1
    OUTPUT.write_text(text, "utf-8")
    print(f"wrote {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
