"""What words ask for: intents, rules and sites, as patterns over a question put into English."""

import re

SIDES = r"\b(left|right)\b"

_HELLO = r"hi|hello|hey|dear (?:colleague|consilium|doctor)|good (?:morning|afternoon|evening|day)|greetings|hallo|guten (?:tag|morgen|abend)|hola|buen[oa]s (?:días|tardes|noches)|bonjour|bonsoir|salut"
_THANKS = r"thanks?(?: you)?(?: (?:very|so) much| a lot| in advance)?|thx|cheers|please|danke(?: schön| dir| ihnen| im voraus)?|vielen dank|bitte|(?:muchas |mil )?gracias|por favor|merci(?: beaucoup| bien| d'avance)?|s'il (?:vous|te) pla[iî]t"
POLITE = re.compile(
    rf"^\W*(?:(?:{_HELLO})\b(?: (?:there|doctor|dr|consilium|everybody|all|again))?|您好|你好)[\s,，.!！:]*|(?:^|[\s,，])(?:(?:{_THANKS})\b|谢谢(?:您|你)?|多谢)(?=[\s.!?？。！]*$)",
    re.I,
)
"""A greeting before a question, thanks after it: they say nothing of what is asked."""

LOBE = r"\b(lobes?|frontal|temporal|parietal|occipital|insular?)\b"

CHART = r"\b(?:what|which|anything|everything|show|open|list|read|display|see|give)\b.{0,40}?\b(the|this|in|show|me|open|a|medical|patient'?s?|clinical|health|electronic|her|his) (\w+ )?(records?|chart|ehr|emr)( (say|says|show|shows|hold|holds|contain|contains|include|includes|tell|tells)( us)?)?\W*$|^(show|open|read|list|display) (me )?records?\W*$"
"""The record as a whole."""
PERSON = (
    r"\bhow old\b(?! (is|are|was|were) (the|this|these|that) (last |newest )?(report|scan|study|mri|ct|image|finding|value|lab))|\b(what|which|know|tell|state|give|is)\b.{0,20}\b(age|sex|gender)\b(?! ?\d)|\b(patient'?s?|her|his|their) (age|sex|gender)\W*$|"
    r"\b(male or female|man or (a )?woman|female or male)\b|^\W*patient (age|sex|gender)\W*$"
)
"""How old the patient is, and of which sex."""

CUES: dict[str, str] = {
    # What isn't done at all.
    "order": r"^(?:please |can you |could you |just )?(give|administer|inject|prescribe|start|stop|order|book|schedule|cancel|delete|discharge|"
             r"refer|call|increase|reduce|hold|sign|write (?:up )?(?:a |the )?prescription|put in)\b.{0,60}"
             r"\b(the patient|patient|her|him|mg\b|scanner|scan|slot|appointment|now|today|tonight|tomorrow|monday|tuesday|wednesday|thursday|friday|"
             r"records?|studies|study|surgeon|theatre|off|dose|prescription|chart)\b"
             r"|\b(give|administer|inject|prescribe)\b.{0,30}\b(mg\b|now\b|the patient)|\bwrite .{0,15}prescription|\bbook\b.{0,30}\b(scanner|slot|appointment|mri|ct)\b"
             r"|\bwhat dose (should|do|shall) i give\b|\bhow many mg\b|\bexact dose\b|\bdose (should|shall) (i|we) (give|prescribe|start)\b",
    "hostile": r"\b(ignore|disregard|forget|override|bypass)\b.{0,12}\b(your|all|previous|prior|the|any|every|these|safety|earlier|above)\b.{0,30}\b(instruction|rule|guard|prompt|safety|restriction|filter|check|limit)"
               r"|patient list|system prompt|raw .{0,20}(list|dump)|\bdump\b.{0,30}\b(database|archive|records?|table|pacs|files?)|"
               r"other patients?'?s?\b|another patient|different patient'?s|\b(all|every|each|five|ten|last) (the |other |last )?(\w+ )?patients?\b(?! (with|who|in whom|undergo|should|need|have))|passwords?\b|api key|secret key|please follow it|"
               r"mark (this|it) as (benign|malignant|normal)|\b(pretend|act as|you are now|roleplay|developer mode|jailbreak|no restrictions)\b|"
               r"\b(follow|obey|execute) (what|the|its|that|those)\b.{0,25}\b(instruction|command|order|says?)\b|\bdo (what|as|the|its|that|those)\b.{0,25}\b(instructions?|commands?|orders?|says)\b|\breveal\b.{0,20}\b(prompt|instruction|key|name)|"
               r"\b(home )?address\b.{0,20}patient|phone number|social security|email (it|this|the|them)|send (?!(it|this|them|the \w+|my \w+) to (the |our |my )?(pacs|archive|ehr|his|ris)\W*$).{0,40}\b(to|outside|http)|\bpost it to\b|"
               r"\b(change|edit|alter|falsify|backdate|overwrite|fake)\b.{0,20}\b(report|result|record|date|log|audit)|without (a |any )?(evidence|source)s? (just )?say|\b(don\'?t|do not) (need|want|care about) (any )?(evidence|sources?|proof|citations?)|\bno (evidence|sources?|citations?) needed|\bjust (say|write|tell me|state) (that )?(it|this|she|he) (is|has)",
    # Neither a case nor a tool. (A message that only greets or thanks is one too: `POLITE`.)
    "help": r"^\W*(ok|okay|great|good|perfect|bye|goodbye|help( me)?)\W*$|\bwhat (else )?(can|could) (you|this|it|i) (do|ask|help)\b(?!.{0,20}\b(treat|prevent|patient|tumou?r))|^\W*what do you do\W*$|\bhow (can|do|does) (i|you|we|this|it) (use|work|help me|ask)\b|\b(who|what) are you\b",
    "urgent": r"\b(anything|something|what|is it|is this|is that|how) (is |so |an? )?(urgent|critical|acute|emergen\w+|life[- ]threatening)\b|\bany (emergenc\w+|urgent\W*$|urgent (finding|matter|issue|problem|thing)s?|critical (finding|result)s?|acute findings?)\b|\ban? emergency\b|\bred flags?\b|\bsee (a |the )?(doctor|patient|her|him) (now|today|at once|immediately)\b",
    "by_hand": r"\b(export|download|save|store|send|push|upload)\b.{0,30}\b(segmentations?|masks?|outlines?|contours?|reports?|drafts?|rtstruct|measurements?|worksheets?|it|this|them|results?)\b(?!.{0,30}@).{0,20}(\b(pacs|archive|ehr|his|ris|as (dicom|fhir|pdf|csv|nifti|a \w+|seg|sr)|file)\b.*)?\W*$",
    "indication": r"\bwhat (was|is) the (clinical )?(indication|question|history given|reason)( for (the|this|her|his) (\w+ )?(mri|ct|scan|study|exam\w*|imaging|ultrasound|pet))?\W*$|\bwhy was (the|this|her|his|last) (\w+ )?(mri|ct|scan|study|exam\w*|imaging|ultrasound|pet|x-?ray)( (done|performed|ordered|requested|made|acquired)\b|\W*$)",
    "trials": r"\b(which|what|any|find|search|open|recruiting|matching|suitable|list)\b.{0,24}\btrials?\b(?! (show|prove|support|found|say|compar))",
    # What the tools do.
    "growth": r"\bgrow(n|th|ing|s)?\b|\bgrew\b|\bprogress(ion|ed|ing|ive)?\b|\bcompar|\bsince\b.{0,30}\b(last|prior|previous|baseline|scan|study|mri|ct|january|february|march|april|may|june|july|august|september|october|november|december|20\d\d)\b"
              r"|(?:bigger|larger|smaller) than|\b(got|gotten|getting|become) (bigger|larger|smaller|worse)|shr[aiu]nk|pseudo-?\s?progress|\bresponse\b|\brespond(ed|ing|s)?\b|doubling time|"
              r"(?<!no )(?<!without )\bprior\b(?! (cancer|malign|surg|biops|treat|chemo|radio|categor|histor))|\bprevious (scan|study|ct|mri|exam)|\binterval change|\bchanged?\b.{0,25}\b(since|from|between|over|compared)|\bwhat('s| is| has)? changed\b|\bstable\b.{0,20}\?|\bover time\b|\bevolution\b|\btrend of the (size|lesion|nodule)",
    "course": r"\b(show|display|what (is|was)|how (is|was)|give|plot|draw)\b.{0,20}\b(the |her |his |their )?(whole |disease )?(course|evolution|trajectory)\b(?! of (radio|chemo|treat|steroid|antibio))|"
              r"\b(the )?course (of|over) (the )?(disease|lesions?|tumou?rs?|nodules?|metasta\w*|last|time|all)|\bbest (overall )?response\b|\bnadir\b(?!.{0,20}\d)|\b(response|target) worksheet\b|\btarget lesions?\b(?!.{0,20}\d)|"
              r"\bresponse (over|across) (time|the)\b|\bover (the|all|these) (last |past )?(two|three|four|five|\d)? ?(scans|studies|examinations|exams)\b",
    "drawn": r"\b(what|which|where|show|list)\b.{0,24}\b(radiologist|reader|colleague|clinician|physician|doctor|anyone|somebody|someone|others?)\b.{0,24}\b(measured?|outlined?|dr[ae]wn?|segment(ed)?|annotated?|marked?|contoured?)\b|"
             r"\b(existing|stored|imported|available|manual) (annotations?|segmentations?|outlines?|contours?|measurements?)\b|\bannotations?\b",
    "size": r"\b(oedema|edema|necrosis|tumou?r|enhancement|core) (is there )?how much\b|\bhow much\b.{0,24}\b(enhanc\w+|necro\w+|oedema|edema|tumou?r|core)\b|\bmidline\b|\b(mean|average) (hu|hounsfield|adc|suv|signal|value|intensity)\b|\bhow (big|large|wide|long|thick)\b(?! ((are|is) the slice|will|can|could|does (she|he|it take)|did|has|have|had|should|until|ago|before|after|must|may|is (she|he)))|\bsizes?\b|\bvolumes?\b|\bdiameters?\b|"
            r"\bdimensions?\b|\bmeasur|\bin (ml|mm|cm)\b|\blongest\b|\bshort axis\b|\blong axis\b|\bcentimet|\bmillimet|\bpsa density|\bhow (many|much) (ml|millilit|cm|cc)",
    "count": r"\b(which|what|list|show) (?:all |the |\w+ )?(lesions?|nodules?|metastas\w+)( (are|is) (there|seen|visible))?\W*$|\b(is|are) (it|this|that|they|the \w+) (multi-?focal|unifocal|multicentric|solitary|multiple|single)\b|\bhow many (?:\w+ ){0,2}(lesions?|tumou?rs?|metas\w*|mets|nodules?|mass(es)?|spots|foci|cysts|nodes)\b|\bmore than one (?:\w+ )?(lesion|tumou?r|nodule|mass|met)|\bdetect\b|"
             r"\b(bounding )?box(es)?\b|\beach (lesion|tumou?r|nodule)\b|\bnumber of (?:\w+ )?(lesions?|mets|metas\w*|nodules?)|\bcount (the |all )?(?:\w+ )?(lesions?|mets|nodules?|metas)|"
             r"\b(is|are) there (a|an|any|some|other|more|also)?\s?(?:\w+ ){0,2}(nodules?|metas\w*|mets|lesions?|cysts?|mass(es)?|tumou?rs?|spots?|abnormalit\w+|focus|foci)\b|\bany (?:\w+ ){0,2}(nodules?|mets|metas\w*|lesions?|mass(es)?|tumou?rs?|cysts?)\b|"
             r"\bfind (all |the |any )?(?:\w+ )?(lesions?|nodules?|tumou?rs?|mets|metas\w*)|\bsolitary or multiple\b",
    "texture": r"\bradiomic|\btextur|\bglcm\b|\bheterogen(eity|eous is)\b|\bsphericity\b|\bibsi\b|\bentropy\b|\bshape features?\b|\bfirst[- ]order\b",
    "look": r"\b(have|take) a look\b|^look at\b",
    "see": r"\bwhat('s| is) wrong\b|^\W*what('s| is| are) (this|that|it|these|here)\W*$|\bwhat (do|can|does|did) (you|it|one|we|this) see\b|\byou see\b|\bdescribe\b(?!.*report)|\bsegment(?! ?\d|\s?[iv]+\b)|\boutlin|\babnormal|\bcontour|"
           r"\bfindings\b(?!.*report)|\bwhat (does|do|did) (the|this|these|my)? ?(?:\w+ )?(scans?|images?|mri|ct|study|pet|ultrasound|mammogram|x-?ray|radiograph) show|show .{0,12}mask|\bimage findings|\bis (the|this) (scan|study|mri|ct|brain|liver|chest) (normal|ok|okay|clear)\b|\banything (wrong|suspicious|abnormal)\b",
    "where": r"\b(is|are|does|lie|lies|sit|sits|lying|located) .{0,24}\b(frontal|temporal|parietal|occipital|insular?|cerebell\w+|thalam\w+|upper|lower|middle|left|right)( lobes?| half| third| hemisphere)?\W*$|^(left or right|right or left)\b|\bwhere\b(?! (did|was) (she|he|the patient))|\bwhich (side|lobe|segment|hemisphere|half)\b|\blocation\b|\blocated\b|\blocali[sz]e",
    "finding": r"\b(is|was|are|were) there\b|\bany (signs?|evidence|other|enlarged|effusion|oedema|hydrocephalus|hemorrh|haemorrh)\b|\bdo(es)? (it|the \w+) (bleed|enhance|calcif)\w*|"
               r"\b(is|are|was) the (ventricles?|midline|sulci|vessels?|bones?|nodes?|ducts?)\b|\b(calcifi|enhanc|necro|haemorrh|hemorrh|cystic|oedema)\w*\b.{0,25}\?",
    "type": r"^\W*what('s| is| are) (this|that|it|these)\W*$|\btumou?r type\b|\bwhat (kind|type|sort)\b|\bwhich (type|kind)\b|\bmost likely\b|\bdifferential\b|\bdiagnos(is|e)\b(?!.*\bintegrated)|\bwhat is (it|this) most\b|"
            r"\b(glioma|meningioma|pituitary|metastasis|lymphoma|gbm|glioblastoma|abscess)\b.{0,8}\bor\b|\b(is|are|was|could|can|might) (this|it|that|the \w+|these|he|she) (be )?(a |an )?.{0,24}\b(benign|malignant|cancer\w*|glioma|meningioma|gbm|glioblastoma|lymphoma|abscess|metastasis|adenoma|schwannoma|sarcoma)\b|"
            r"\bbenign or malignant\b|\bcancer(ous)? or not\b|\bif this is cancer\b|\bis (this|it) cancer|\bclassif(y|ication of the (lesion|tumou?r))|\bhow sure\b|\bhow (likely|confident)\b(?!.*brock)",
    "cancer": r"\b(is|if|whether) (this|it|that|the \w+) (is |be )?(a )?(cancer\w*|malignan\w*)\b|\bcancer\b.{0,12}\b(yes or no|or not)\b|\bbenign or malignant\b",
    "report": r"\breports?\b|\bsum of (?:the |longest |target )*diameters\b(?!\s*(?:of|is|was|:|=)?\s*\d)|\bsays?\b.{0,12}\bletters?\b|\bradiologist\b|\bwrote\b|\bdictat|\bimpression\b|\bpatholog(y|ist)\b|\bhistolog|\bbiops(y|ies) (came|result|show|said|was|is)|\b(clinic|discharge|hepatology|oncology|referral) letters?\b|\bin the letter\b|\bletters?\b.{0,15}\b(say|said|mention)|\bread(ing)? by\b|\bmention",
    "contrast": r"\bgadolin\w*|^(?!.*\benhanc).*\bcontrast (agents?|medi\w+)|\b(kidney|renal) function|\b(adequate|sufficient|good enough|ok|okay) for (iv )?contrast\b|(?-i:\beGFR\b)|\bgfr\b|\bcontrast safe|\bnsf\b|\biodinated|\b(have|get|receive|tolerate|safe for) (iv |i\.v\. |the )?contrast\b",
    "record": rf"{CHART}|{PERSON}|\bdiagnos[ei]s\b.{{0,16}}\b(known|documented|recorded|listed|on file|in the (record|chart))\b|\b(known|documented|recorded|listed) diagnos[ei]s\b|\bwhich diagnos[ei]s\W*(?!would|fits?|could|might)$|\bproblem list\b|"
              r"(?-i:\bEGFR\b)|\bblood (?:counts?|tests?|values?|work)\b|\blabs?\b|\blaborator|\bcreatinine\b|\bplatelets?\b|\bha?emoglobin\b|\bkarnofsky\b|\bkps\b|\becog\b|\bperformance status\b|\bmgmt\b|\bidh\b|\b1p/?19q\b|\btert\b|\bki-?67\b|\bbrca\b|\bher-?2\b|\b(er|pr) (status|positive|negative)\b|\bpd-?l1\b|\bngs\b|\bkras\b|\bbraf\b|\begfr (status|mut\w*|negative|positive)|\balk (status|negative|positive)|\bros1\b|"
              r"\b(when|has|had|was|did|have|have been|is)\b.{0,24}\b(operation|surgery|operated|resection|craniotomy)\b(?!.{0,20}\b(indicated|possible|an? option|needed|necessary|required|recommended|advisable|safe|worth|better|feasible|planned|benefit))|\b(what|which) (operation|surgery|procedures?|interventions?)\b.{0,16}\b(done|had|performed|have|undergone)\b|\bantibiotics?\b|\bpacemakers?\b|\bimplants?\b|\bblood (type|group)\b|\bpregnan\w+|\ballerg|\bmedications?\b|\bmeds\b|\bdrugs?\b|\bsteroids?\b|\bdex(amethasone)?\b|\bsmok(er|ing|es|ed)\b.{0,15}\?|\bpack[\s-]years?\b.{0,6}\?|\bconditions?\b|\bcomorbid|\bmolecular\b|\bgenetic|\bmutation|\bpsa\b|\bafp\b|\bcea\b|\bca[ -]?(125|19-9|15-3)\b|\bbilirubin\b|\balbumin\b|\binr\b|\bldh\b|\bcrp\b|\bwbc\b|\bneutrophil|\bliver function|\blfts?\b|\bmedical history\b|\bpast history\b|"
              r"\bdead\b|\bdied\b|\balive\b|\bdeceased\b|\bon (any )?(anticoag|blood thinners?|warfarin|apixaban)|\banticoagul|\binteract|\bfamily history\b.{0,4}\?|\bprevious (surgery|treatment|radio|chemo|operation)|\b(dose|course|cycles?|fractions?) of (radio|chemo)\w*|\b(did|has|had|does|is) (she|he|the patient) (get|got|receive|received|have|had|undergo|undergone|take|taking|stop|start|quit)\b|\bstatus\?|\b(is|are) (it|this|she|he|the tumou?r) (brca|her2|er|pr|alk|ros1|egfr|kras|braf|hiv|hpv|ebv)\b|\bgleason\b|\bmeld\b|\bcalcitonin\b|\btsh\b|\bki-?67\b|\bbrca\d?\b|\btumou?r markers?\b|\bvital signs?\b|\bblood pressure\b|\bweight\b.{0,8}\?|\bwhich (chemo|treatment|therapy) (did|has|was)",
    "guideline": r"\bguidelines?\b|\b(for|against|get|have|receive|given|tolerate) (temozolomide|radiotherapy|chemo\w*|surgery|resection|immunotherapy|\w+mab|\w+nib)\b|\bwhether (?:she|he|we|they|the patient) (?:should|can|may|needs?)\b|\b(?:radio|chemo|immuno)therapy\b(?! (?:did|has|was|end|finish|dose))|\b(who|acr|easl|aasld|eano|nccn|esmo|astro|fleischner|bts|eau|aua|iaslc)\b.{0,40}\b(say|says|recommends?|suggests?|defines?|advises?)\b|\brecommend|\bstandard (of care|treatment|therapy)|\btreat(ed|ment|ing|able)?\b|\btherap|\bshould (we|i|she|he|they|this|it)\b|\bwhat should\b|\bdo we (need|have to)\b|\bis (a |an |the )?(biopsy|surgery|operation|follow[\s-]?up|resection) (needed|indicated|necessary|required)|\bneeds? (a )?(follow|biops|treat|surg|further)"
                 r"|\bafter surgery\b|\bfirst[\s-]line\b|\bsecond[\s-]line\b|\boptions?\b|\bwhat next\b|\bnext steps?\b|\bfollow[\s-]?up\b|\boffer\b|\bcan (i|we) (start|give|stop|use|skip|wait|watch)\b|\bmanag(e|ed|ement|ing)\b|\bchanges? anything\b|\bdoes (it|that) (matter|change)\b|"
                 r"\bare we done\b|\bdone now\b|\bradiosurg|\bsrs\b|\b(in)?operable\b|\beligible\b|\bindicated\b|\bindications? for\b(?! (the|this|her|his) (\w+ )?(mri|ct|scan|study|exam|imaging))|\bcontraindicat|\bprogno|\blife expectancy\b|\bhow long (will|does|can|has) (she|he|the patient) (still )?(live|have|got)\b|\bsurvival\b|pseudo-?\s?progress|\bevidence for\b(?! (the|this|that|its) (volume|size|diameter|outline|mask|finding|measure\w*|number|value|statement|sentence))|\bhow often\b|\bwhen (should|to|is the next|do we)\b|\bsurveillance\b|\bablation\b|\bresect|\bwatch and wait\b|\brisk\b.{0,30}\bnext\b",
    "planning": r"^\W*(what('s| is)? )?(else |still |noch )?(missing|lacking)( still| noch| here)?\W*$|\b(missing|lack\w*|need\w*|know|unknown|complete)\b.{0,60}\b(treatment|therapy|plan\w*|board|decid\w*|decision)\b|"
                r"\bbefore (the )?(tumou?r board|mdt|treatment|therapy)\b|\bready for (treatment|therapy|the (tumou?r )?board)\b|prepare .{0,20}\bboard\b",
    "advised": r"\b(follow[\s-]?up|recommend\w*|advis\w*|suggest\w*)\b.{0,40}\breports?\b|\breports?\b.{0,40}\b(recommend|advise|suggest)",
    "metadata": r"\bresolution of (the |these |this )?(images?|scans?|series|mri|ct|study)|\bslice thickness\b|\bhow thick\b.{0,14}\bslices?\b|\bthickness of (the )?slices?|\bkernel\b|\bdose\b.{0,15}\?(?!.*\bgive\b)|\b(ctdi|dlp|kvp|mas)\b|\bspacing\b|\bscanner (model|type|vendor|was)|\b(which|what) (scanner|machine|vendor|manufacturer)|\bfield strength\b|\btesla\b|"
                r"\bdicom (tag|header|attribute)|\bacquired\b|\bacquisition\b|\bvoxels?\b|\bmatrix\b|\b(tr|te)\b(?= and| of|\?|/)|\bprotocol\b|\bhounsfield\b|\bhu\b(?=[ ?].*\?|\?)|\bwith (or without )?contrast\?|\bcontrast given\b|\bwas contrast\b|\bwhich phases?\b|\b(arterial|venous|portal) phases? (there|available|acquired|present|included)|\b(which|what) (sequences|phases?|view|projection)\b|\bexposure\b|\bphase and\b|\bwindow (level|width|setting)|\bpixel\b|\bmetadata\b|\bimage quality\b|\bmotion artefact",
    "privacy": r"\bwho is (this|the) patient\b|\bpatient'?s? name\b|\bsame (person|patient)\b|\bbelong to (the same|one|this)\b|\bwhose (scan|study|images?)\b|\bdate of birth\b|\bidentity\b|\bright patient\b",
    "summary": r"\b(what|everything|all|anything|much)\b.{0,24}\b(know|have|known|is there)\b.{0,12}\b(about|on) ((this|the|her|him|our)\W*$|((this|the|our|de[rmns]|diese[rmn]|unser\w*|est[ea]|el|la|nuestr\w+|cet?|cette|le|notre) )?(patient|case)\W*$)|\btell (me|us) (all |everything |something |more )?about (?:\w+ )?(patient|case)\W*$|\bwhat information\b|\b(present|introduce) (the|this) (case|patient)\b|"
               r"\bsummar|\boverview\b|\bin \d+ lines\b|\bbring me up to speed\b|\bcatch me up\b|\btl;?dr\b|\brecap\b|\bbrief me\b|\bwhat('s| is) the story\b",
    "list": r"^list\b|\blist (all|the|every|me)\b|\b(which|what|list|how many|show)\b.{0,20}\b(studies|scans|images|imaging|series|examinations|exams)\b|\bwhat do we have\b|\bwhat is (there|available)\b|\b(is|are) there (a |an |any )?(prior|previous|earlier|older)|\bwhen was the (last|latest|first) (scan|mri|ct|study|exam)",
    "followups": r"\boverdue\b|\b(outstanding|missed|forgotten|open|pending) (\w+ )?(follow[\s-]?ups?|recommendations?|controls?)|\bfollow[\s-]?ups? (are|is|still|that)?\s?(still )?(due|outstanding|open|pending|missing)\b|"
                 r"\b(was|were|has|have) (the |any )?(recommended |advised )?(follow[\s-]?up|control)s? (been )?(done|performed|carried out|made)|\bdid we miss\b.{0,30}(scan|follow|control|recommend)",
    # What it may be, and what it shows.
    "differential": r"\b(ranked|list of|possible|likely|probable) (list of )?(the )?diagnos[ei]s\b|\bdifferentials?\b|\bddx\b|\bwhat else (could|can|might) (it|this|that|the \w+) be\b|\bwhich diagnos[ei]s (would )?fits?\b|\bwhat speaks (for|against)\b(?!.{0,24}\b(temozolomide|radiotherapy|chemo\w*|surgery|resection|immunotherapy|treat\w+|therap\w+|\w+mab|\w+nib)\b)|\b(do|does) (they|these|the \w+|\w+ and \w+) agree\b|\beach (source|modality|of them)?\s?sa(y|id)\b|\b(all|several|different) modalit\w+|"
                    r"\b(tell|distinguish|differentiate)\b.{0,20}\b(metasta\w+|glioblastoma|abscess|lymphoma|meningioma)\b.{0,12}\b(from|and)\b",
    "signs": r"\b(imaging|radiolog\w+|mri?|ct|named) signs?\b|\b(which|what) signs\b|\bt2[-/ ]?flair mismatch|\bdural tail|\bbutterfly (sign|pattern|glioma|tumou?r|lesion)|"
             r"\bring[- ]enhanc\w+.{0,40}\b(mean|sign|specific|look)|\b(is|does|any).{0,30}\bring[- ]enhanc\w+.{0,4}\?|\bhalo sign|\bpopcorn|\bcomet[- ]tails?|\blight[- ]bulb|\bair[- ]crescent|\bopen[- ]ring|"
             r"\bspoke[- ]wheel|\bdual[- ]rim|\b(washout|capsule|spiculat\w+|taller[- ]than[- ]wide|central scar|targetoid)\b.{0,20}\b(sign|mean|specific)|\b(mean|specific|look[- ]?alikes?)\b.{0,30}\b(washout|capsule|spiculat\w+|halo|dural tail|ring[- ]enhanc\w+)",
    # Work that a tool of its own does.
    "draft": r"\b(draft|write|generate|prepare|compose|create|produce|dictate)\b.{0,30}\b(report|summary for|letter|impression|board summary|tumou?r board)|\bdraft\b",
    "check": r"\b(check|proof-?read|verify|review|audit|compare|validate)\b.{0,20}\b(my|this|the|his|her|our)?\s?(draft |written )?(report|dictation|impression|wording)\b|\b(is|are) (my|this|the) report (correct|right|consistent|complete)|\bdoes (my|the|this) report (match|fit|agree)|\b(errors?|mistakes?|inconsistenc\w+|contradictions?) in (my |the |this )?(report|draft|r\d+)\b",
    "similar": r"\bsimilar (cases?|patients?|images?|tumou?rs?|lesions?)|\bcases? like (this|it)|\blook(s)? like (this|it) in the archive|\bseen (this|something like) before",
    "quiz": r"\bquiz\b|\bteach(ing)?\b|\btest me\b|\bask me\b|\bexam question|\bmcqs?\b|\blearn(ing)? (from|session)",
    "explain": r"^why\b|\bexplain\b.{0,60}\b(why|how|resident|student|score|category|result|you)|\bwhy (did|do|is|was) (you|it|that|this)|\bhow did you (get|arrive|work|come|calculate)|\bwhich (features|inputs|facts) (did|were)|\bbased on what\b|\bwhat if\b",
    "change": r"\b(and |but )?(what )?(?<!me )(?<!know )(?<!see )(?<!check )if (the|it|there|she|he|we|all|no)\b.{0,60}\b(were|was|had|is|are|absent|present|instead|negative|positive|not)\b|\bif (?:\S+ ){1,4}(were|was|had been)\b|\bsuppose\b|\bassum(e|ing) (that |the )?|\bwould (that|it|this) change\b",
}  # fmt: skip

# Rules that a question can ask for by name or by subject.
RULE_CUES: dict[str, str] = {
    "rano_2_0": r"\brano\b|pseudo-?\s?progress", "irecist": r"\bi-?recist\b", "mrecist": r"\bm-?recist\b", "recist_1_1": r"\brecist\b",
    "fleischner_2017": r"\bfleischner\b|^(?!.*(lung-?\s?rads|thyroid|screening)).*(\bnodules?\b.{0,50}\bfollow|\bfollow.{0,30}\bnodule)",
    "volume_doubling_time": r"doubling time|\bvdt\b", "who_cns_2021_glioma": r"integrated diagnosis|\bwho (cns )?(20)?21\b|\bwho grad|\bcns5|\bcns ?who\b|\bgrade 4\b.{0,15}\?",
    "lung_rads_2022": r"\blung-?\s?rads\b", "li_rads_2018": r"\bli-?\s?rads\b|\blr-?[1-5mM]\b|\b(is|be|an?) (this |it |that )?(a |an )?(hcc|hepatocellular)\b",
    "pi_rads_v2_1": r"\bpi-?\s?rads\b|\bpsa density\b",
    "bi_rads": r"\bbi-?\s?rads\b", "acr_ti_rads_2017": r"\bti-?\s?rads\b|\btr[1-5]\b|^(?=.*\bthyroid)(?=.*\bnodul).*(\bfna\b|biops|aspirat)",
    "o_rads_us_v2022": r"\bo-?\s?rads\b", "bosniak_2019": r"\bbosniak\b", "brock_full": r"\bbrock\b|\bpan-?can\b",
    "mayo_swensen_1997": r"\bmayo (model|score|clinic|risk)|\bswensen\b", "va_gould_2007": r"\bgould\b|\bva model\b", "herder_2005": r"\bherder\b",
    "bclc_2022": r"\bbclc\b|\bbarcelona\b", "child_pugh": r"child-?\s?(pugh|turcotte)", "albi": r"\bm?albi\b",
    "lugano_2014_pet": r"\bdeauville\b|\blugano\b(?!.*\bstage\b)", "lugano_2014_stage": r"\bann arbor\b|\blugano\b.*\bstage\b|lymphoma stage|\bstage\b.*\blymphoma\b",
    "tnm_lung_9": r"\b(tnm|stag(e|ing))\b.*\b(lung|nsclc|iaslc)\b|\b(lung|nsclc)\b.*\b(tnm|stage)\b(?! iv)",
    "tnm_breast_8": r"\b(tnm|stage)\b.*\bbreast\b|\bbreast\b.*\b(tnm|stage)\b", "tnm_kidney_8": r"\b(tnm|stage|staging)\b.*\b(renal|kidney|rcc)\b|\b(renal|kidney|rcc)\b.*\b(tnm|stage)\b",
    "astro_brain_mets_2022": r"(\bsrs\b|radiosurg|\bastro\b).*(\bmets?\b|metasta)|(\bmets?\b|metasta\w*).*(\bsrs\b|radiosurg)",
    "lung_molgpa_2017": r"\blung.?mol.?gpa\b|\bmolgpa\b", "gpa_2008": r"\b(ds-?)?gpa\b(?<!molgpa)",
    "nsclc_first_line": r"\b(nsclc|non-small|lung (adeno)?c\w*|egfr|alk|pd-?l1|kras|ros1)\b.*\b(first[\s-]line|treat\w*|therap\w*|options?|osimertinib|pembrolizumab|immunotherapy)\b",
}  # fmt: skip

STAGING = re.compile(
    r"\btnm\b|\bstag(e|es|ing)( group)?\b(?! iv\b)|\b[tnm] (stage|category|descriptor)\b|\b[cp]?t[0-4][a-d]?,? ?n[0-3][a-c]?,? ?m[01x]",
    re.I,
)
"""Asks for a stage; which rule gives it depends on the organ."""
STAGES = {"lung": "tnm_lung_9", "breast": "tnm_breast_8", "kidney": "tnm_kidney_8", "lymphoma": "lugano_2014_stage"}
"""Organ or disease -> the rule that stages it."""

SITES = {"liver": "ABDOMEN", "hepatic": "ABDOMEN", "lung": "CHEST", "pulmonary": "CHEST", "breast": "BREAST", "prostate": "PROSTATE",
         "kidney": "ABDOMEN", "renal": "ABDOMEN", "thyroid": "NECK", "bone": "BONE", "spine": "SPINE", "pancreas": "ABDOMEN",
         "brain": "BRAIN", "cerebral": "BRAIN", "heart": "CHEST", "bladder": "PELVIS", "spleen": "ABDOMEN",
         "stomach": "ABDOMEN", "adrenal": "ABDOMEN", "colon": "ABDOMEN", "ovary": "PELVIS", "uterus": "PELVIS", "knee": "KNEE",
         "shoulder": "SHOULDER", "hip": "HIP", "pituitary": "BRAIN", "gallbladder": "ABDOMEN", "rectum": "PELVIS"}  # fmt: skip
SITE = re.compile(
    rf"\b({'|'.join(SITES)})s?\b(?:\s+(metasta\w*|mets|lesions?|nodules?|tumou?rs?|cysts?|mass(?:es)?|cancer|function))?", re.I
)
PRONOUN = re.compile(
    r"^(and|but|no|not|what about|how about|sorry|actually|i meant?)\b|\b(it|that|this|its|them|those|same)\b", re.I
)
CORRECTION = re.compile(r"^(no|not|nope|sorry|actually|wrong|i meant?)\b[,. ]", re.I)

MODALITIES = {"PT": r"\bpet\b|\bpet-?ct\b|\bsuv\b", "MR": r"\bmri?s?\b|\bmagnetic resonance\b", "CT": r"\bcts?\b(?!-?guided)", "US": r"\bultraso(und|nic)\b|\bsonogra",
              "MG": r"\bmammogra"}  # fmt: skip
"""DICOM modality -> how a question names it."""
NAMED = {"PT": "PET", "MR": "MRI", "CT": "CT", "US": "ultrasound", "MG": "mammogram"}
"""What a modality is called in a sentence."""
SEQUENCES = {"FLAIR": r"\bflair\b", "T1C": r"\bt1c\b|\bt1 ?(post|\+|with)|\bpost-?contrast t1", "T2": r"\bt2w?\b(?!-?flair)(?!w?\W{1,8}[1-5]\b)", "ADC": r"\badc\b", "DWI": r"\bdwi\b(?!\W{0,8}[1-5]\b)",
             "SWI": r"\bswi\b", "T1": r"\bt1w?\b(?! ?c\b)(?! ?(post|\+|with))(?![abc]?[ ,]*n\d)"}  # fmt: skip
MARKER = r"\b(idh|mgmt|1p/?19q|tert|atrx|cdkn2a|egfr|alk|kras|braf|her-?2|pd-?l1|h3)\b"
"""Molecular markers that are asked for by name."""
