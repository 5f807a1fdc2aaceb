"""How a grade-school maths problem is put, in each language of MGSM (Shi et al. 2023, arXiv 2210.03057).

Instructions and worked examples are this project's own: MGSM's eight examples are not part of its test files. The
examples have the same numbers in all languages, and end in the announcement that ``evaluation.mgsm`` reads.
"""

from __future__ import annotations

from dataclasses import dataclass

EXAMPLE_ANSWERS = (19, 21, 28)


@dataclass(frozen=True, slots=True)
class MathsWords:
    """The words of one language.

    Attributes:
        instruction: Goes before everything.
        question: Label of a question.
        answer: Label of its solution.
        examples: (question, solution) of each worked example.
    """

    instruction: str
    question: str
    answer: str
    examples: tuple[tuple[str, str], ...]


WORDS = {
    "bn": MathsWords(
        'সমস্যাটি ধাপে ধাপে সমাধান করুন। শেষে লিখুন "উত্তর হল" এবং তারপর সংখ্যাটি।',
        "প্রশ্ন",
        "সমাধান",
        (
            (
                "অনুর ৪টি বাক্স আছে, প্রতিটিতে ৬টি পেন্সিল। সে ৫টি পেন্সিল দিয়ে দিল। তার কাছে কয়টি পেন্সিল রইল?",
                "৪টি বাক্সে 4 × 6 = 24টি পেন্সিল আছে। সে 5টি দিয়ে দিল, তাই 24 - 5 = 19টি রইল। উত্তর হল 19।",
            ),
            ("একটি বাসের টিকিটের দাম 3 ডলার। 7টি টিকিটের দাম কত?", "7টি টিকিটের দাম 7 × 3 = 21 ডলার। উত্তর হল 21।"),
            (
                "একটি গাছে 40টি পাখি ছিল। অর্ধেক উড়ে গেল, তারপর 8টি ফিরে এল। এখন গাছে কয়টি পাখি আছে?",
                "40-এর অর্ধেক 20, তাই 20টি পাখি রইল। তারপর 8টি ফিরে এল: 20 + 8 = 28। উত্তর হল 28।",
            ),
        ),
    ),
    "de": MathsWords(
        'Löse die Aufgabe Schritt für Schritt. Schreibe am Ende "Die Antwort ist" und die Zahl.',
        "Frage",
        "Lösung",
        (
            (
                "Anna hat 4 Schachteln mit je 6 Bleistiften. Sie verschenkt 5 Bleistifte. Wie viele hat sie noch?",
                "4 Schachteln mit je 6 Bleistiften sind 4 × 6 = 24 Bleistifte. Sie verschenkt 5, also "
                "bleiben 24 - 5 = 19. "
                "Die Antwort ist 19.",
            ),
            (
                "Eine Busfahrkarte kostet 3 Dollar. Wie viel kosten 7 Fahrkarten?",
                "7 Fahrkarten kosten 7 × 3 = 21 Dollar. Die Antwort ist 21.",
            ),
            (
                "In einem Baum saßen 40 Vögel. Die Hälfte flog weg, dann kamen 8 zurück. Wie viele Vögel "
                "sind jetzt im Baum?",
                "Die Hälfte von 40 ist 20, also blieben 20 Vögel. Dann kamen 8 zurück: 20 + 8 = 28. Die "
                "Antwort ist 28.",
            ),
        ),
    ),
    "en": MathsWords(
        'Solve the problem step by step. At the end write "The answer is" and the number.',
        "Question",
        "Solution",
        (
            (
                "Anna has 4 boxes with 6 pencils each. She gives away 5 pencils. How many pencils does she have left?",
                "4 boxes with 6 pencils each are 4 × 6 = 24 pencils. She gives away 5, so 24 - 5 = 19 are left. "
                "The answer is 19.",
            ),
            (
                "A bus ticket costs 3 dollars. How much do 7 tickets cost?",
                "7 tickets cost 7 × 3 = 21 dollars. The answer is 21.",
            ),
            (
                "There were 40 birds in a tree. Half of them flew away, then 8 came back. How many birds are "
                "there now?",
                "Half of 40 is 20, so 20 birds stayed. Then 8 came back: 20 + 8 = 28. The answer is 28.",
            ),
        ),
    ),
    "es": MathsWords(
        'Resuelve el problema paso a paso. Al final escribe "La respuesta es" y el número.',
        "Pregunta",
        "Solución",
        (
            (
                "Ana tiene 4 cajas con 6 lápices cada una. Regala 5 lápices. ¿Cuántos lápices le quedan?",
                "4 cajas con 6 lápices cada una son 4 × 6 = 24 lápices. Regala 5, así que quedan 24 - 5 = 19. "
                "La respuesta es 19.",
            ),
            (
                "Un billete de autobús cuesta 3 dólares. ¿Cuánto cuestan 7 billetes?",
                "7 billetes cuestan 7 × 3 = 21 dólares. La respuesta es 21.",
            ),
            (
                "Había 40 pájaros en un árbol. La mitad se fue volando y luego volvieron 8. ¿Cuántos pájaros "
                "hay ahora?",
                "La mitad de 40 es 20, así que quedaron 20 pájaros. Luego volvieron 8: 20 + 8 = 28. La "
                "respuesta es 28.",
            ),
        ),
    ),
    "fr": MathsWords(
        "Résous le problème étape par étape. À la fin, écris « La réponse est » et le nombre.",
        "Question",
        "Solution",
        (
            (
                "Anne a 4 boîtes de 6 crayons chacune. Elle donne 5 crayons. Combien de crayons lui reste-t-il ?",
                "4 boîtes de 6 crayons font 4 × 6 = 24 crayons. Elle en donne 5, il en reste donc 24 - 5 = 19. "
                "La réponse est 19.",
            ),
            (
                "Un ticket de bus coûte 3 dollars. Combien coûtent 7 tickets ?",
                "7 tickets coûtent 7 × 3 = 21 dollars. La réponse est 21.",
            ),
            (
                "Il y avait 40 oiseaux dans un arbre. La moitié s'est envolée, puis 8 sont revenus. Combien "
                "y en a-t-il ?",
                "La moitié de 40 est 20, donc 20 oiseaux sont restés. Puis 8 sont revenus : 20 + 8 = 28. La "
                "réponse est 28.",
            ),
        ),
    ),
    "ja": MathsWords(
        "問題を一歩ずつ解いてください。最後に「答えは」と数を書いてください。",
        "問題",
        "解答",
        (
            (
                "アンナは6本入りの鉛筆の箱を4箱持っています。鉛筆を5本あげました。鉛筆は何本残っていますか？",
                "6本入りの箱が4箱で4 × 6 = 24本です。5本あげたので、24 - 5 = 19本残ります。答えは19です。",
            ),
            ("バスの切符は1枚3ドルです。7枚ではいくらですか？", "7枚では7 × 3 = 21ドルです。答えは21です。"),
            (
                "木に鳥が40羽いました。半分が飛び去り、その後8羽が戻ってきました。今、鳥は何羽いますか？",
                "40の半分は20なので、20羽が残りました。8羽が戻ったので、20 + 8 = 28羽です。答えは28です。",
            ),
        ),
    ),
    "ru": MathsWords(
        "Реши задачу шаг за шагом. В конце напиши «Ответ:» и число.",
        "Задача",
        "Решение",
        (
            (
                "У Анны 4 коробки, в каждой по 6 карандашей. Она подарила 5 карандашей. Сколько карандашей у "
                "неё осталось?",
                "В 4 коробках по 6 карандашей всего 4 × 6 = 24 карандаша. Она подарила 5, осталось 24 - 5 = "
                "19. Ответ: 19.",
            ),
            (
                "Билет на автобус стоит 3 доллара. Сколько стоят 7 билетов?",
                "7 билетов стоят 7 × 3 = 21 доллар. Ответ: 21.",
            ),
            (
                "На дереве сидело 40 птиц. Половина улетела, потом вернулись 8. Сколько птиц сейчас на дереве?",
                "Половина от 40 — это 20, значит, осталось 20 птиц. Потом вернулись 8: 20 + 8 = 28. Ответ: 28.",
            ),
        ),
    ),
    "sw": MathsWords(
        'Tatua tatizo hatua kwa hatua. Mwishoni andika "Jibu ni" na namba.',
        "Swali",
        "Suluhisho",
        (
            (
                "Anna ana masanduku 4 yenye penseli 6 kila moja. Anatoa penseli 5. Amebaki na penseli ngapi?",
                "Masanduku 4 yenye penseli 6 kila moja ni 4 × 6 = 24. Anatoa 5, kwa hiyo zimebaki 24 - 5 = "
                "19. Jibu ni 19.",
            ),
            (
                "Tiketi ya basi inagharimu dola 3. Tiketi 7 zinagharimu kiasi gani?",
                "Tiketi 7 zinagharimu 7 × 3 = dola 21. Jibu ni 21.",
            ),
            (
                "Kulikuwa na ndege 40 kwenye mti. Nusu waliruka, kisha 8 wakarudi. Sasa kuna ndege wangapi?",
                "Nusu ya 40 ni 20, kwa hiyo walibaki ndege 20. Kisha 8 wakarudi: 20 + 8 = 28. Jibu ni 28.",
            ),
        ),
    ),
    "te": MathsWords(
        'సమస్యను దశలవారీగా పరిష్కరించండి. చివర "సమాధానం" అని రాసి సంఖ్యను రాయండి.',
        "ప్రశ్న",
        "సాధన",
        (
            (
                "అన్నా దగ్గర 4 పెట్టెలు ఉన్నాయి, ఒక్కోదానిలో 6 పెన్సిళ్ళు. ఆమె 5 పెన్సిళ్ళు ఇచ్చేసింది. ఎన్ని మిగిలాయి?",
                "4 పెట్టెలలో 4 × 6 = 24 పెన్సిళ్ళు. ఆమె 5 ఇచ్చేసింది, కాబట్టి 24 - 5 = 19 మిగిలాయి. సమాధానం 19.",
            ),
            ("బస్సు టికెట్ ధర 3 డాలర్లు. 7 టికెట్ల ధర ఎంత?", "7 టికెట్ల ధర 7 × 3 = 21 డాలర్లు. సమాధానం 21."),
            (
                "ఒక చెట్టు మీద 40 పక్షులు ఉన్నాయి. సగం ఎగిరిపోయాయి, తర్వాత 8 తిరిగి వచ్చాయి. ఇప్పుడు ఎన్ని పక్షులు ఉన్నాయి?",
                "40లో సగం 20, కాబట్టి 20 పక్షులు మిగిలాయి. తర్వాత 8 తిరిగి వచ్చాయి: 20 + 8 = 28. సమాధానం 28.",
            ),
        ),
    ),
    "th": MathsWords(
        'แก้โจทย์ทีละขั้นตอน ตอนท้ายให้เขียนว่า "คำตอบคือ" แล้วตามด้วยตัวเลข',
        "โจทย์",
        "วิธีทำ",
        (
            (
                "แอนนามีกล่อง 4 กล่อง กล่องละ 6 แท่งดินสอ เธอให้คนอื่นไป 5 แท่ง เธอเหลือดินสอกี่แท่ง",
                "4 กล่อง กล่องละ 6 แท่ง รวม 4 × 6 = 24 แท่ง เธอให้ไป 5 แท่ง จึงเหลือ 24 - 5 = 19 แท่ง คำตอบคือ 19",
            ),
            ("ตั๋วรถเมล์ราคา 3 ดอลลาร์ ตั๋ว 7 ใบราคาเท่าไร", "ตั๋ว 7 ใบราคา 7 × 3 = 21 ดอลลาร์ คำตอบคือ 21"),
            (
                "มีนก 40 ตัวบนต้นไม้ ครึ่งหนึ่งบินหนีไป แล้วกลับมา 8 ตัว ตอนนี้มีนกกี่ตัว",
                "ครึ่งหนึ่งของ 40 คือ 20 จึงเหลือนก 20 ตัว แล้วกลับมา 8 ตัว: 20 + 8 = 28 คำตอบคือ 28",
            ),
        ),
    ),
    "zh": MathsWords(
        "请一步一步地解题。最后写“答案是”和数字。",
        "问题",
        "解答",
        (
            (
                "安娜有4个盒子，每个盒子里有6支铅笔。她送出了5支铅笔。她还剩多少支铅笔？",
                "4个盒子每盒6支，一共4 × 6 = 24支铅笔。她送出5支，还剩24 - 5 = 19支。答案是19。",
            ),
            ("一张公交车票3美元。7张票多少钱？", "7张票要7 × 3 = 21美元。答案是21。"),
            (
                "树上有40只鸟。一半飞走了，然后又飞回来8只。现在有多少只鸟？",
                "40的一半是20，所以留下20只鸟。然后飞回来8只：20 + 8 = 28。答案是28。",
            ),
        ),
    ),
}


def maths_prompt(question: str, language: str, shots: int) -> str:
    """What the model is asked.

    Args:
        question: The problem.
        language: A code of ``WORDS`` (its primary subtag counts).
        shots: Worked examples before it, 0 to 3.
    """
    words = WORDS[language.split("-", 1)[0]]
    if shots == 0:
        return f"{words.instruction}\n\n{question}"
    examples = "\n\n".join(f"{words.question}: {q}\n{words.answer}: {a}" for q, a in words.examples[:shots])
    return f"{words.instruction}\n\n{examples}\n\n{words.question}: {question}\n{words.answer}:"
