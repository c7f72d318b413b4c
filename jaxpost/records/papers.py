"""Titles and authors of the papers whose metrics and claims are here, by arXiv number: the entries of CITATION.bib.

Titles and lists of authors were *recalled*, not looked up: compare an entry with arXiv before it goes into print. Where no list
was at hand, there is none and the entry says so; "and others" stands where a list is longer than what is known of it. Years are
those of the first version on arXiv.
"""

from collections.abc import Mapping, Sequence

UNKNOWN = "authors not recorded here, see arXiv:{}"

_TABLE = (  # arXiv number, year, title, authors
    ("0706.1062", 2007,
     "Power-law distributions in empirical data",
     "Clauset, Aaron and Shalizi, Cosma Rohilla and Newman, M. E. J."),
    ("1510.01799", 2015,
     "Efficient Per-Example Gradient Computations",
     "Goodfellow, Ian"),
    ("1705.08741", 2017,
     "Train longer, generalize better: closing the generalization gap in large batch training of neural networks",
     "Hoffer, Elad and Hubara, Itay and Soudry, Daniel"),
    ("1707.00183", 2017,
     "Teacher-Student Curriculum Learning",
     "Matiisen, Tambet and Oliver, Avital and Cohen, Taco and Schulman, John"),
    ("1812.06162", 2018,
     "An Empirical Model of Large-Batch Training",
     "McCandlish, Sam and Kaplan, Jared and Amodei, Dario and {OpenAI Dota Team}"),
    ("1901.10159", 2019,
     "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density",
     "Ghorbani, Behrooz and Krishnan, Shankar and Xiao, Ying"),
    ("1903.08008", 2019,
     "Rank-normalization, folding, and localization: An improved R-hat for assessing convergence of MCMC",
     "Vehtari, Aki and Gelman, Andrew and Simpson, Daniel and Carpenter, Bob and B{\\\"u}rkner, Paul-Christian"),
    ("1912.05671", 2019,
     "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
     "Frankle, Jonathan and Dziugaite, Gintare Karolina and Roy, Daniel M. and Carbin, Michael"),
    ("2001.06782", 2020,
     "Gradient Surgery for Multi-Task Learning",
     "Yu, Tianhe and Kumar, Saurabh and Gupta, Abhishek and Levine, Sergey and Hausman, Karol and Finn, Chelsea"),
    ("2001.07384", 2020,
     "Understanding Why Neural Networks Generalize Well Through GSNR of Parameters",
     "Liu, Jinlong and Jiang, Guoqing and Bai, Yunzhi and Chen, Ting and Wang, Huayan"),
    ("2006.07710", 2020,
     "The Pitfalls of Simplicity Bias in Neural Networks",
     "Shah, Harshay and Tamuly, Kaustav and Raghunathan, Aditi and Jain, Prateek and Netrapalli, Praneeth"),
    ("2006.13900", 2020,
     "Quantifying Differences in Reward Functions",
     "Gleave, Adam and Dennis, Michael and Legg, Shane and Russell, Stuart and Leike, Jan"),
    ("2008.01217", 2020,
     "Making Coherence Out of Nothing At All: Measuring the Evolution of Gradient Alignment",
     "Chatterjee, Satrajit and Zielinski, Piotr"),
    ("2010.03934", 2020,
     "Prioritized Level Replay",
     "Jiang, Minqi and Grefenstette, Edward and Rockt{\\\"a}schel, Tim"),
    ("2012.03107", 2020,
     "When Do Curricula Work?",
     "Wu, Xiaoxia and Dyer, Ethan and Neyshabur, Behnam"),
    ("2102.06604", 2021,
     "Cockpit: A Practical Debugging Tool for the Training of Deep Neural Networks",
     "Schneider, Frank and Dangel, Felix and Hennig, Philipp"),
    ("2103.00065", 2021,
     "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability",
     "Cohen, Jeremy M. and Kaur, Simran and Li, Yuanzhi and Kolter, J. Zico and Talwalkar, Ameet"),
    ("2107.03374", 2021,
     "Evaluating Large Language Models Trained on Code",
     "Chen, Mark and others"),
    ("2109.01903", 2021,
     "Robust fine-tuning of zero-shot models",
     "Wortsman, Mitchell and others"),
    ("2201.02177", 2022,
     "Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets",
     "Power, Alethea and Burda, Yuri and Edwards, Harri and Babuschkin, Igor and Misra, Vedant"),
    ("2201.10081", 2022,
     "Dynamics-Aware Comparison of Learned Reward Functions",
     "Wulfe, Blake and Ellis, Logan and Mercat, Jean and McAllister, Rowan and Gaidon, Adrien and Balakrishna, Ashwin"),
    ("2202.13587", 2022,
     "Rethinking and Refining the Distinct Metric",
     "Liu, Siyang and Sabour, Sahand and Zheng, Yinhe and Ke, Pei and Zhu, Xiaoyan and Huang, Minlie"),
    ("2203.10036", 2022,
     "On the Generalization Mystery in Deep Learning",
     "Chatterjee, Satrajit and Zielinski, Piotr"),
    ("2207.14484", 2022,
     "Adaptive Gradient Methods at the Edge of Stability",
     "Cohen, Jeremy M. and others"),
    ("2301.05217", 2023,
     "Progress measures for grokking via mechanistic interpretability",
     "Nanda, Neel and Chan, Lawrence and Lieberum, Tom and Smith, Jess and Steinhardt, Jacob"),
    ("2301.07799", 2023,
     "A Domain-Agnostic Approach for Characterization of Lifelong Learning Systems",
     "Baker, Megan M. and New, Alexander and Aguilar-Simon, Mario and Al-Halah, Ziad and others"),
    ("2305.15408", 2023,
     "Towards Revealing the Mystery behind Chain of Thought: A Theoretical Perspective",
     "Feng, Guhao and others"),
    ("2308.12108", 2023,
     "The Local Learning Coefficient: A Singularity-Aware Complexity Measure",
     "Lau, Edmund and Furman, Zach and Wang, George and Murfet, Daniel and Wei, Susan"),
    ("2309.15257", 2023,
     "STARC: A General Framework For Quantifying Differences Between Reward Functions",
     "Skalse, Joar and Farnik, Lucy and Motwani, Sumeet Ramesh and Jenner, Erik and Gleave, Adam and Abate, Alessandro"),
    ("2309.17230", 2023,
     "Spurious Feature Diversification Improves Out-of-distribution Generalization",
     "Lin, Yong and Tan, Lu and Hao, Yifan and Wong, Honam and Dong, Hanze and Zhang, Weizhong and Yang, Yujiu and "
     "Zhang, Tong"),
    ("2310.06110", 2023,
     "Grokking as the Transition from Lazy to Rich Training Dynamics",
     "Kumar, Tanishq and Bordelon, Blake and Gershman, Samuel J. and Pehlevan, Cengiz"),
    ("2310.06452", 2023,
     "Understanding the Effects of RLHF on LLM Generalisation and Diversity",
     "Kirk, Robert and Mediratta, Ishita and Nalmpantis, Christoforos and Luketina, Jelena and Hambro, Eric and "
     "Grefenstette, Edward and Raileanu, Roberta"),
    ("2310.16028", 2023,
     "What Algorithms can Transformers Learn? A Study in Length Generalization",
     "Zhou, Hattie and others"),
    ("2401.08967", 2024,
     "ReFT: Reasoning with Reinforced Fine-Tuning",
     "Luong, Trung Quoc and Zhang, Xinbo and Jie, Zhanming and Sun, Peng and Jin, Xiaoran and Li, Hang"),
    ("2407.07612", 2024,
     "Teaching Transformers Causal Reasoning through Axiomatic Training",
     "Vashishtha, Aniket and others"),
    ("2405.15071", 2024,
     "Grokked Transformers are Implicit Reasoners: A Mechanistic Journey to the Edge of Generalization",
     "Wang, Boshi and Yue, Xiang and Su, Yu and Sun, Huan"),
    ("2406.10162", 2024,
     "Sycophancy to Subterfuge: Investigating Reward-Tampering in Large Language Models",
     "Denison, Carson and others"),
    ("2409.02060", 2024,
     "OLMoE: Open Mixture-of-Experts Language Models",
     "Muennighoff, Niklas and others"),
    ("2504.03380", 2025,
     "Online Difficulty Filtering for Reasoning Oriented Reinforcement Learning",
     "Bae, Sanghwan and Hong, Jiwoo and Lee, Min Young and Kim, Hanbyul and Nam, JeongYeon and Kwak, Donghyun"),
    ("2504.09710", 2025,
     "DUMP: Automated Distribution-Level Curriculum Learning for RL-based LLM Post-training",
     "Wang, Zhenting and Cui, Guofeng and Li, Yu-Jhe and Wan, Kun and Zhao, Wentian"),
    ("2504.11468", 2025,
     "SFT or RL? An Early Investigation into Training R1-Like Reasoning Large Vision-Language Models",
     "Chen, Hardy and others"),
    ("2504.13818", 2025,
     "Not All Rollouts are Useful: Down-Sampling Rollouts in LLM Reinforcement Learning",
     "Xu, Yixuan Even and Savani, Yash and Fang, Fei and Kolter, J. Zico"),
    ("2505.11711", 2025,
     "Reinforcement Learning Finetunes Small Subnetworks in Large Language Models",
     "Mukherjee, Sagnik and Yuan, Lifan and Hakkani-Tur, Dilek and Peng, Hao"),
    ("2505.14970", 2025,
     "Self-Evolving Curriculum for LLM Reasoning",
     "Chen, Xiaoyin and Lu, Jiarui and Kim, Minsu and Zhang, Dinghuai and Tang, Jian and Pich{\\'e}, Alexandre and "
     "Gontier, Nicolas and Bengio, Yoshua and Kamalloo, Ehsan"),
    ("2505.22617", 2025,
     "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
     "Cui, Ganqu and Zhang, Yuchen and Chen, Jiacheng and Yuan, Lifan and Wang, Zhi and Zuo, Yuxin and Li, Haozhan and "
     "Fan, Yuchen and Chen, Huayu and Chen, Weize and Liu, Zhiyuan and Peng, Hao and Bai, Lei and Ouyang, Wanli and "
     "Cheng, Yu and Zhou, Bowen and Ding, Ning"),
    ("2506.13284", 2025,
     "AceReason-Nemotron 1.1: Advancing Math and Code Reasoning through SFT and RL Synergy",
     "Liu, Zihan and Yang, Zhuolin and Chen, Yang and Lee, Chankyu and Shoeybi, Mohammad and Catanzaro, Bryan and Ping, Wei"),
    ("2506.21551", 2025,
     "Where to find Grokking in LLM Pretraining? Monitor Memorization-to-Generalization without Test",
     "Li, Ziyue and Fan, Chenrui and Zhou, Tianyi"),
    ("2507.05386", 2025,
     "Reinforcement Fine-Tuning Naturally Mitigates Forgetting in Continual Post-Training",
     "Lai, Song and Zhao, Haohan and Feng, Rong and Ma, Changyi and Liu, Wenzhuo and Zhao, Hongbo and Lin, Xi and Yi, "
     "Dong and Xie, Min and Zhang, Qingfu and Liu, Hongbin and Meng, Gaofeng and Zhu, Fei"),
    ("2507.06892", 2025,
     "Squeeze the Soaked Sponge: Efficient Off-policy Reinforcement Finetuning for Large Language Model",
     "Liang, Jing and others"),
    ("2507.10628", 2025,
     "GHPO: Adaptive Guidance for Stable and Efficient LLM Reinforcement Learning",
     "Liu, Ziru and others"),
    ("2508.08940", 2025,
     "Train Long, Think Short: Curriculum Learning for Efficient Reasoning",
     "Hammoud, Hasan Abed Al Kader and others"),
    ("2509.04259", 2025,
     "RL's Razor: Why Online Reinforcement Learning Forgets Less",
     "Shenfeld, Idan and Pari, Jyothish and Agrawal, Pulkit"),
    ("2509.22601", 2025,
     "Learn the Ropes, Then Trust the Wins: Self-imitation with Progressive Exploration for Agentic Reinforcement Learning",
     "Qin, Yulei and others"),
    ("2509.25849", 2025,
     "Knapsack RL: Unlocking Exploration of LLMs via Optimizing Budget Allocation",
     "Li, Ziniu and Chen, Congliang and Yang, Tianyun and Ding, Tian and Sun, Ruoyu and Zhang, Ge and Huang, Wenhao "
     "and Luo, Zhi-Quan"),
    ("2510.00553", 2025,
     "On Predictability of Reinforcement Learning Dynamics for Large Language Models",
     "Cai, Yuchen and Cao, Ding and Xu, Xin and Yao, Zijun and Huang, Yuqing and Tan, Zhenyu and Zhang, Benyi and Sun, "
     "Guangzhong and Liu, Guiquan and Fang, Junfeng"),
    ("2510.01037", 2025,
     "CurES: From Gradient Analysis to Efficient Curriculum Learning for Reasoning LLMs",
     "Zeng, Yongcheng and Sun, Zexu and Ji, Bokai and Min, Erxue and Cai, Hengyi and Wang, Shuaiqiang and Yin, Dawei "
     "and Zhang, Haifeng and Chen, Xu and Wang, Jun"),
    ("2511.08567", 2025,
     "The Path Not Taken: RLVR Provably Learns Off the Principals",
     "Zhu, Hanqing and Zhang, Zhenyu and Huang, Hanxian and Su, DiJia and Liu, Zechun and Zhao, Jiawei and Fedorov, "
     "Igor and Pirsiavash, Hamed and Sha, Zhizhou and Lee, Jinwon and Pan, David Z. and Wang, Zhangyang and Tian, "
     "Yuandong and Tai, Kai Sheng"),
    ("2602.03839", 2026,
     "Understanding and Exploiting Weight Update Sparsity for Communication-Efficient Distributed RL",
     "Miahi, Erfan and Belilovsky, Eugene"),
    ("2606.07082", 2026,
     "On the Geometry of On-Policy Distillation",
     "Shen, Zhennan and Li, Yanshu and Yin, Qingyu and Leong, Chak Tou and Wang, Zhilin and Chen, Yanxu and Han, "
     "Rongduo and Lee, Sunbowen and Fung, Yi R."),
    ("2606.13657", 2026,
     "Dense Supervision, Sparse Updates: On the Sparsity and Geometry of On-Policy Distillation",
     "Yu, Guo and Liu, Wenlin and Hu, Yulan and Ma, Hao-Xuan and Jiang, Jun-Peng and Ye, Han-Jia"),
    ("2607.19331", 2026,
     "ISO (short name; the full title is not recorded here)",
     None),
)
PAPERS = {number: (year, title, authors) for number, year, title, authors in _TABLE}


def entry(number: str) -> dict[str, str]:
    """The BibTeX fields of a paper by its arXiv number; of one that is not in the table, the number and that nothing is known.

    >>> entry("1510.01799")["author"], entry("9901.00001")["note"]
    ('Goodfellow, Ian', 'title and authors not recorded here, see arXiv:9901.00001')
    """
    fields = {"key": f"arxiv-{number}", "eprint": number}
    if number not in PAPERS:
        return fields | {"title": f"arXiv:{number}", "note": "title and " + UNKNOWN.format(number)}
    year, title, authors = PAPERS[number]
    known = {"author": authors} if authors else {"note": UNKNOWN.format(number)}
    return fields | {"title": title, "year": str(year)} | known


def entries(numbers: Sequence[str]) -> list[Mapping[str, str]]:
    """`entry` of several."""
    return [entry(number) for number in numbers]
